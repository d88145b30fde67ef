// Goal: what qemu-img map prints is understood, line by line; anything else is refused.
import assert from "node:assert/strict";
import { test } from "node:test";

import { parseMapLine } from "./raw-reader.ts";

test("raw reader: understands the lines of qemu-img map", () => {
  const rest = '"depth": 0, "present": true, "data": true, "offset": 0';
  const line = (start: string, zero: string): string =>
    `{ "start": ${start}, "length": 1000, "zero": ${zero}, ${rest}}`;
  const data = { offsetBytes: 0, lengthBytes: 1000, kind: "data" };
  assert.deepEqual(parseMapLine(`[${line("0", "false")},`), data);
  assert.deepEqual(parseMapLine(`[${line("0", "false")}]`), data);
  assert.deepEqual(parseMapLine(`${line("4096", "true")},`), {
    offsetBytes: 4096,
    lengthBytes: 1000,
    kind: "zero",
  });
  for (const empty of ["", "]", "[]", "  "]) assert.equal(parseMapLine(empty), "none");
  for (const odd of ["{", "7", '{"start": 0}', line("-1", "true"), line('"0"', "true"), "null"]) {
    assert.equal(parseMapLine(odd), undefined, odd);
  }
});
