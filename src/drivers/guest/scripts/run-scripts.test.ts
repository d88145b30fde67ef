/**
 * Goal: the guest's shell gets exactly the words of the configuration, and its answer is understood.
 * Method: random words through a real shell; the form of answers by a table.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { parseScriptReport, quoteCommand } from "./run-scripts.ts";

test("run scripts: words reach a shell as they are", () => {
  const word = fc.string({
    unit: fc.constantFrom("'", '"', "$", "`", "\\", " ", "\n", "*", "é", "a"),
  });
  fc.assert(
    fc.property(fc.array(word, { maxLength: 5 }), (words) => {
      const command = quoteCommand(["printf", String.raw`%s\0`, "begin", ...words]);
      const printed = execFileSync("/bin/sh", ["-c", `eval "exec $1"`, "test", command]).toString();
      assert.deepEqual(printed.split("\0").slice(1, -1), words);
    }),
    { numRuns: 50 },
  );
});

test("run scripts: what a supervisor says of a script is read or refused", () => {
  assert.deepEqual(parseScriptReport("failed 3 2 100 250 late\n"), {
    run: { outcome: "failed", exitCode: 3, tries: 2, durationMs: 1500 },
    startMs: 1000,
    endMs: 2500,
    isLate: true,
  });
  assert.deepEqual(parseScriptReport("timed-out - 1 5 6 -").run, {
    outcome: "timed-out",
    tries: 1,
    durationMs: 10,
  });
  for (const line of ["", "succeeded", "done 0 1 1 1 -", "failed 3 2 100 250 late more"]) {
    assert.throws(
      () => parseScriptReport(line),
      (error) => isKluisError(error, "AgentFailed"),
    );
  }
});
