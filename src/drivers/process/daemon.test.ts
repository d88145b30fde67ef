// Goal: a daemon is ready when spawnDaemon returns, gone when it is stopped, and never outlives us
// unless told to. Method: real shells; the death of a parent is tried with a second Node process.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { spawnDaemon } from "./daemon.ts";
import { isProcessAlive, readProcessIdentity, stopProcess } from "./process-identity.ts";

const readyTimeoutMs = 20_000;

async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "kluis-daemon-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function waitFor(condition: () => Promise<boolean>, what: string): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + 20_000;
  while (!(await condition())) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, `waited in vain for ${what}`);
    await systemClock.sleep(10);
  }
}

test("spawnDaemon: returns when ready and stops on dispose", async () => {
  await withFolder(async (folder) => {
    const flag = join(folder, "ready");
    const daemon = await spawnDaemon("/bin/sh", ["-c", `sleep 0.1; : > ${flag}; exec sleep 60`], {
      isReady: () => exists(flag),
      readyTimeoutMs,
    });
    assert.ok(await isProcessAlive(daemon.identity));
    assert.equal(daemon.exitStatus, undefined);
    await daemon[Symbol.asyncDispose]();
    assert.equal(await isProcessAlive(daemon.identity), false);
    assert.deepEqual(await daemon.stop(), { code: undefined, signal: "SIGTERM" });
  });
});

test("spawnDaemon: says why when the daemon ends before it is ready", async () => {
  await assert.rejects(
    spawnDaemon("/bin/sh", ["-c", "echo no such image >&2; exit 1"], {
      isReady: async () => false,
      readyTimeoutMs,
    }),
    (error) => isKluisError(error, "ToolFailed") && error.message.includes("no such image"),
  );
});

test("spawnDaemon: kills a daemon that is never ready and ignores SIGTERM", async () => {
  await withFolder(async (folder) => {
    const pidPath = join(folder, "pid");
    const script = `trap '' TERM; echo $$ > ${pidPath}; while :; do sleep 0.05; done`;
    await assert.rejects(
      spawnDaemon("/bin/sh", ["-c", script], {
        isReady: async () => false,
        readyTimeoutMs: 300,
        stopGraceMs: 100,
      }),
      (error) => isKluisError(error, "ToolFailed") && error.message.includes("300 ms"),
    );
    assert.equal(await readProcessIdentity(Number(await readFile(pidPath, "utf8"))), undefined);
  });
});

test("spawnDaemon: rejects with the reason when aborted", async () => {
  const controller = new AbortController();
  const start = spawnDaemon("sleep", ["60"], {
    isReady: async () => {
      controller.abort(new Error("enough"));
      return false;
    },
    readyTimeoutMs,
    signal: controller.signal,
  });
  await assert.rejects(start, /enough/);
});

for (const lifetime of ["dies-with-us", "stays"] as const) {
  test(`spawnDaemon: a daemon that ${lifetime} does so when we are killed`, async () => {
    await withFolder(async (folder) => {
      const pidPath = join(folder, "pid");
      const module = JSON.stringify(new URL("./daemon.ts", import.meta.url).href);
      const program = `
        const { spawnDaemon } = await import(${module});
        await spawnDaemon("/bin/sh", ["-c", "echo $$ > ${pidPath}; exec sleep 60"], {
          isReady: async () => true, readyTimeoutMs: 20000, lifetime: "${lifetime}",
        });
        setInterval(() => {}, 1000);`;
      const parent = spawn(process.execPath, ["--input-type=module", "-e", program]);
      const parentEnd = new Promise((resolve) => parent.once("exit", resolve));
      const readPid = async (): Promise<number> =>
        Number(await readFile(pidPath, "utf8").catch(() => "0"));
      await waitFor(async () => (await readPid()) > 0, "the daemon");
      const identity = await readProcessIdentity(await readPid());
      assert.ok(identity !== undefined);
      parent.kill("SIGKILL");
      await parentEnd;
      if (lifetime === "dies-with-us") {
        await waitFor(async () => !(await isProcessAlive(identity)), "the daemon's end");
      } else {
        assert.ok(await isProcessAlive(identity));
        await stopProcess(identity, { graceMs: 1000 });
        assert.equal(await isProcessAlive(identity), false);
      }
    });
  });
}

test("spawnDaemon: a lifeline ends when we close it, and the log keeps the output", async () => {
  await withFolder(async (folder) => {
    const logPath = join(folder, "log");
    const daemon = await spawnDaemon("/bin/sh", ["-c", "echo up; cat; echo down"], {
      isReady: async () => (await readFile(logPath, "utf8")).includes("up"),
      readyTimeoutMs,
      logPath,
      lifeline: true,
    });
    assert.ok(await isProcessAlive(daemon.identity));
    await daemon.stop();
    assert.equal(await readFile(logPath, "utf8"), "up\n");
  });
});
