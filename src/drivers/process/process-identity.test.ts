// Goal: a pid that was used again, or belongs to a zombie, is never taken for the process it was.
import assert from "node:assert/strict";
import { test } from "node:test";

import {
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
  assert.deepEqual(parseProcessStat(`7 (a) b (c)) S ${tail}`), { startTicks: 98765 });
  assert.equal(parseProcessStat(`7 (a) Z ${tail}`), undefined);
  assert.equal(parseProcessStat("7 (a) S 1"), undefined);
});
