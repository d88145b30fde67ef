// Goal: a program either gives its whole output or a typed error, and never outlives the call.
// Method: real programs of every Debian system (cat, sleep, printf, head), killed in every way.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { readProcessIdentity } from "./process-identity.ts";
import { assertToolSucceeded, runTool } from "./run-tool.ts";
import { readToolLines } from "./tool-lines.ts";

const timeoutMs = 20_000;

test("runTool: returns output, errors and exit code when the program ends", async () => {
  const result = await runTool("/bin/sh", ["-c", "cat; echo oops >&2; exit 3"], {
    timeoutMs,
    stdin: "hello",
  });
  assert.deepEqual(result, { exitCode: 3, stdout: "hello", stderr: "oops\n" });
  assert.throws(
    () => {
      assertToolSucceeded("sh", result);
    },
    (error) => isKluisError(error, "ToolFailed") && error.message === 'Cannot run "sh": oops',
  );
});

test("runTool: passes arguments as they are, without a shell", async () => {
  const result = await runTool("printf", ["%s|", "a b", "$HOME", "`id`", ";"], { timeoutMs });
  assert.equal(result.stdout, "a b|$HOME|`id`|;|");
});

test("runTool: keeps our environment from the program", async () => {
  process.env["KLUIS_TEST_SECRET"] = "secret";
  const result = await runTool("env", [], { timeoutMs, env: { GIVEN: "1" } });
  delete process.env["KLUIS_TEST_SECRET"];
  const names = result.stdout
    .trim()
    .split("\n")
    .map((line) => line.replace(/=.*/, ""));
  assert.deepEqual(new Set(names), new Set(["GIVEN", "LC_ALL", "PATH"]));
});

test("runTool: gives the program a session of its own, which Ctrl-C does not reach", async () => {
  const result = await runTool("cat", ["/proc/self/stat"], { timeoutMs });
  const [pid, , , , group, session] = result.stdout.split(" ");
  assert.equal(group, pid);
  assert.equal(session, pid);
});

test("runTool: names the package when the program is absent", async () => {
  await assert.rejects(runTool("/nowhere/qemu-img", [], { timeoutMs }), (error) => {
    assert.ok(isKluisError(error, "ToolMissing"));
    assert.equal(error.details["package"], "qemu-utils");
    assert.match(error.message, /apt-get install qemu-utils/);
    return true;
  });
});

test("runTool: ends the program on timeout, also one that ignores SIGTERM", async () => {
  const script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
  const lines = readToolLines("/bin/sh", ["-c", script], { timeoutMs: 200 });
  const first = await lines.next();
  const pid = Number(first.value);
  await assert.rejects(lines.next(), (error) => isKluisError(error, "ToolFailed"));
  assert.equal(await readProcessIdentity(pid), undefined);
});

test("runTool: rejects with the reason and ends the program when aborted", async () => {
  const controller = new AbortController();
  const run = runTool("sleep", ["60"], { timeoutMs, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(run, /enough/);
});

test("runTool: refuses more output than allowed", async () => {
  await assert.rejects(
    runTool("head", ["-c", "100000", "/dev/zero"], { timeoutMs, outputBytesMax: 1000 }),
    (error) => isKluisError(error, "ToolFailed") && error.message.includes("1000 bytes"),
  );
  const exact = await runTool("head", ["-c", "1000", "/dev/zero"], {
    timeoutMs,
    outputBytesMax: 1000,
  });
  assert.equal(exact.stdout.length, 1000);
});

test("runTool: reports a signal as shells do", async () => {
  const result = await runTool("/bin/sh", ["-c", "kill -9 $$"], { timeoutMs });
  assert.equal(result.exitCode, 137);
});

test("runTool: returns when a grandchild keeps the pipes", async () => {
  const result = await runTool("/bin/sh", ["-c", "sleep 30 & echo $!"], { timeoutMs });
  process.kill(Number(result.stdout), "SIGKILL");
  assert.equal(result.exitCode, 0);
});

test("readToolLines: gives every line, and the error after the last", async () => {
  const lines: string[] = [];
  await assert.rejects(
    async () => {
      const script = "printf 'one\\ntwo\\nthree'; echo why >&2; exit 1";
      for await (const line of readToolLines("/bin/sh", ["-c", script], { timeoutMs })) {
        lines.push(line);
      }
    },
    (error) => isKluisError(error, "ToolFailed") && error.message.endsWith("why"),
  );
  assert.deepEqual(lines, ["one", "two", "three"]);
});

test("readToolLines: ends the program when the reader stops early", async () => {
  let pid = 0;
  const script = "echo $$; while :; do echo more; done";
  for await (const line of readToolLines("/bin/sh", ["-c", script], { timeoutMs })) {
    pid = Number(line);
    break;
  }
  assert.equal(await readProcessIdentity(pid), undefined);
});
