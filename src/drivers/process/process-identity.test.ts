// Goal: a pid that was used again, or belongs to a zombie, is never taken for the process it was; who was
// stopped goes on when he is told to.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import {
  continueIfStopped,
  isProcessAlive,
  parseProcessStat,
  readProcessIdentity,
  signalProcess,
  waitForProcessEnd,
} from "./process-identity.ts";

test("process identity: is stable for a process that runs", async () => {
  const first = await readProcessIdentity(process.pid);
  assert.ok(first !== undefined && first.startTicks > 0 && first.bootId.length === 36);
  assert.deepEqual(await readProcessIdentity(process.pid), first);
  assert.ok(await isProcessAlive(first));
  assert.equal(await waitForProcessEnd(first, { timeoutMs: 30 }), false);
});

test("process identity: another start or boot is another process", async () => {
  const self = await readProcessIdentity(process.pid);
  assert.ok(self !== undefined);
  const earlier = { ...self, startTicks: self.startTicks - 1 };
  const otherBoot = { ...self, bootId: "00000000-0000-0000-0000-000000000000" };
  for (const identity of [earlier, otherBoot]) {
    assert.equal(await isProcessAlive(identity), false);
    assert.equal(await signalProcess(identity, "SIGKILL"), false);
    assert.ok(await waitForProcessEnd(identity, { timeoutMs: 0 }));
  }
});

test("process identity: there is none of a pid that nobody has", async () => {
  assert.equal(await readProcessIdentity(0x7fff_ffff), undefined);
});

test("process identity: parses names with blanks and brackets, and refuses zombies", () => {
  const tail = `1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1`;
  assert.deepEqual(parseProcessStat(`7 (a) b (c)) S ${tail}`), {
    state: "S",
    startTicks: 98765,
  });
  assert.equal(parseProcessStat(`7 (a) Z ${tail}`), undefined);
  assert.equal(parseProcessStat("7 (a) S 1"), undefined);
});

test("process identity: a zombie whose other threads live holds its files, and has not ended", () => {
  const stat = (threads: number): string =>
    `7 (a) Z 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 ${String(threads)} 0 98765 1 1`;
  assert.deepEqual(parseProcessStat(stat(2)), { state: "Z", startTicks: 98765 });
  assert.equal(parseProcessStat(stat(1)), undefined);
});

test("process identity: a process that a signal stopped is told to go on, and no other", async () => {
  const child = spawn("sleep", ["60"], { stdio: "ignore" });
  try {
    const pid = child.pid ?? 0;
    const self = await readProcessIdentity(pid);
    assert.ok(self !== undefined);
    const readState = async (): Promise<string | undefined> =>
      parseProcessStat(await readFile(`/proc/${String(pid)}/stat`, "utf8"))?.state;
    process.kill(pid, "SIGSTOP");
    while ((await readState()) !== "T") await systemClock.sleep(5);
    await continueIfStopped({ ...self, startTicks: self.startTicks - 1 });
    assert.equal(await readState(), "T");
    await continueIfStopped(self);
    while ((await readState()) === "T") await systemClock.sleep(5);
  } finally {
    child.kill("SIGKILL");
  }
});
