// Goal: a line that is typed without echo is what a terminal would have given. By cases.
import assert from "node:assert/strict";
import { test } from "node:test";

import { TypedLine } from "./typed-line.ts";

const utf8 = new TextEncoder();

function type(...chunks: readonly string[]): { readonly text: string; readonly state: string } {
  const line = new TypedLine(16);
  let state = "open";
  for (const chunk of chunks) if (state === "open") state = line.take(utf8.encode(chunk));
  return { text: new TextDecoder().decode(line.bytes), state };
}

test("typed line: ends with a line, whatever key ends it, or with Ctrl-D on an empty one", () => {
  assert.deepEqual(type("sec", "ret\r"), { text: "secret", state: "done" });
  assert.deepEqual(type("secret\nmore"), { text: "secret", state: "done" });
  assert.deepEqual(type("\u0004"), { text: "", state: "done" });
  assert.deepEqual(type("a\u0004b\n"), { text: "ab", state: "done" });
  assert.deepEqual(type("open"), { text: "open", state: "open" });
});

test("typed line: backspace takes a character, Ctrl-U the line, Ctrl-C ends it all", () => {
  assert.deepEqual(type("aö\u007f\u007fb€\u0008c\n"), { text: "bc", state: "done" });
  assert.deepEqual(type("\u007fwrong\u0015right\n"), { text: "right", state: "done" });
  assert.equal(type("half\u0003rest").state, "interrupted");
});

test("typed line: has a bound", () => {
  assert.equal(type("x".repeat(16)).state, "open");
  assert.equal(type("x".repeat(17)).state, "too long");
});
