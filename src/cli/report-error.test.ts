// Goal: an error is one message that says what, why and what to do, and never shows a stack.
import assert from "node:assert/strict";
import { test } from "node:test";

import { KluisError } from "#base/kluis-error.ts";
import type { ErrorOutput } from "#contract/cli-output.ts";
import type { Terminal } from "./environment.ts";
import { reportError } from "./report-error.ts";

function report(
  error: unknown,
  options: { form?: "table" | "json"; signal?: AbortSignal; isDebug?: boolean } = {},
) {
  const written: string[] = [];
  const stream = {
    write: (text: string) => written.push(text),
    isTerminal: false,
    columns: () => 80,
  };
  const terminal: Terminal = { output: stream, errors: stream, isUnicode: false };
  const { form = "table", signal = new AbortController().signal, isDebug = false } = options;
  const exit = reportError(error, { terminal, signal, isDebug }, form);
  return { exit, text: written.join("") };
}

const missing = new KluisError("StoreNotFound", 'Cannot open a vault in "/x": there is none');

test("report error: tells code, reason and what to do, with the exit code of the registry", () => {
  const { exit, text } = report(missing);
  assert.equal(exit, 10);
  assert.equal(
    text,
    'Error: Cannot open a vault in "/x": there is none (StoreNotFound)\n' +
      "What to do: Check --store, or create a vault there with `kluis vault create`.\n",
  );
});

test("report error: JSON is one line with the same", () => {
  const { text } = report(missing, { form: "json" });
  assert.equal(text.split("\n").length, 2);
  const { code, exit, kind, retry } = JSON.parse(text) as ErrorOutput;
  assert.deepEqual(
    { code, exit, kind, retry },
    {
      code: "StoreNotFound",
      exit: 10,
      kind: "error",
      retry: "after-change",
    },
  );
});

test("report error: a bug is Internal, and its stack is shown on request only", () => {
  const bug = new TypeError("x is not a function", { cause: new Error("deeper") });
  const { exit, text } = report(bug);
  assert.equal(exit, 70);
  assert.doesNotMatch(text, /\n\s+at /);
  assert.match(report(bug, { isDebug: true }).text, /\n\s+at [^]*caused by: Error: deeper/);
});

test("report error: what the user cancelled is Cancelled, whatever broke on the way", () => {
  const reason = new KluisError("Cancelled", "Cannot finish: cancelled by Ctrl-C");
  const signal = AbortSignal.abort(reason);
  for (const error of [
    reason,
    new DOMException("aborted", "AbortError"),
    new Error("socket closed"),
  ]) {
    const { exit, text } = report(error, { signal });
    assert.equal(exit, 130);
    assert.match(text, /cancelled by Ctrl-C \(Cancelled\)/);
  }
  assert.equal(report(missing, { signal }).exit, 10);
});

test("report error: names cannot move the cursor", () => {
  const sly = new KluisError("ImageNotFound", 'Cannot open image "a\u001b[2J"');
  assert.ok(!report(sly).text.includes("\u001b"));
});
