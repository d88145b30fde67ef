import assert from "node:assert/strict";
import { test } from "node:test";

import { maskSource } from "./mask.ts";

test("mask: keeps every offset and line", () => {
  const text = 'const a = "x\\"y"; // end\n/* two\nlines */ const b = `q${a + `r`}s`;\n';
  const { code, bare } = maskSource(text);
  assert.equal(code.length, text.length);
  assert.equal(bare.length, text.length);
  assert.equal(code.split("\n").length, text.split("\n").length);
});

test("mask: blanks comments in code and keeps strings", () => {
  const { code } = maskSource('f("// no comment"); // gone\n/* gone */ g();');
  assert.equal(code, 'f("// no comment");        \n           g();');
});

test("mask: blanks what literals hold in bare", () => {
  const { bare } = maskSource('f("Date.now()", `a${Date.now()}b`, /Date.now()"/, \'it\');');
  assert.equal(bare, "f(\"          \", ` ${Date.now()} `, /           /, '  ');");
});

test("mask: takes a slash after a value for a division", () => {
  const { bare } = maskSource('const c = a / b; const d = (a) / 2; f("/");');
  assert.equal(bare, 'const c = a / b; const d = (a) / 2; f(" ");');
});

test("mask: reads braces inside template expressions", () => {
  const { bare } = maskSource("`${f({ a: { b: `${1}` } })} tail` + tail");
  assert.equal(bare, "`${f({ a: { b: `${1}` } })}     ` + tail");
});
