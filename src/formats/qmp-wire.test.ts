/** Goal: lines come out whole however they come in. Method: random messages, cut at random places. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import {
  AGENT_DELIMITER,
  encodeQmpCommand,
  parseQmpMessage,
  QMP_LINE_BYTES_MAX,
  QmpLines,
  type QmpLine,
} from "./qmp-wire.ts";

function feed(bytes: Uint8Array, cuts: readonly number[]): readonly QmpLine[] {
  const lines = new QmpLines();
  const places = [...new Set(cuts.map((cut) => cut % (bytes.byteLength + 1)))].sort(
    (a, b) => a - b,
  );
  let at = 0;
  return [...places, bytes.byteLength].flatMap((end) => {
    const part = lines.add(bytes.subarray(at, end));
    at = end;
    return part;
  });
}

test("QMP wire: gives every line, wherever the stream is cut", () => {
  fc.assert(
    fc.property(fc.array(fc.json(), { maxLength: 10 }), fc.array(fc.nat()), (values, cuts) => {
      const texts = values.map((value) => JSON.stringify({ return: value }));
      const bytes = Buffer.from(texts.map((text) => `${text}\r\n`).join(""));
      assert.deepEqual(
        feed(bytes, cuts).map((line) => line.text),
        texts,
      );
    }),
    { seed: testSeed(), numRuns: 500 },
  );
});

test("QMP wire: throws away what stands before the last delimiter of the agent", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.array(fc.nat()), (noise, cuts) => {
      const before = Buffer.from(noise.filter((byte) => byte !== AGENT_DELIMITER && byte !== 10));
      const answer = Buffer.from('{"return": 7}\n{"return": {}}\n');
      const bytes = Buffer.concat([before, Uint8Array.of(AGENT_DELIMITER), answer]);
      assert.deepEqual(feed(bytes, cuts), [
        { text: '{"return": 7}', isDelimited: true },
        { text: '{"return": {}}', isDelimited: false },
      ]);
    }),
    { seed: testSeed(), numRuns: 500 },
  );
});

test("QMP wire: refuses a line without end", () => {
  const lines = new QmpLines();
  const part = Buffer.alloc(1024 * 1024, "x");
  assert.throws(
    () => {
      for (let at = 0; at <= QMP_LINE_BYTES_MAX; at += part.byteLength) lines.add(part);
    },
    (error) => isKluisError(error, "QmpFailed"),
  );
});

test("QMP wire: knows each kind of message and nothing else", () => {
  const version = { qemu: { major: 7, minor: 2, micro: 22 }, package: "" };
  const greeting = parseQmpMessage(JSON.stringify({ QMP: { version, capabilities: [] } }));
  assert.deepEqual(greeting, { kind: "greeting", version: "7.2.22" });
  assert.deepEqual(parseQmpMessage('{"event": "STOP", "timestamp": {}}'), {
    kind: "event",
    name: "STOP",
    data: {},
  });
  assert.deepEqual(parseQmpMessage('{"id": "a", "return": [1]}'), {
    kind: "return",
    id: "a",
    value: [1],
  });
  const error = '{"error": {"class": "GenericError", "desc": "no"}, "id": "b"}';
  assert.deepEqual(parseQmpMessage(error), {
    kind: "error",
    id: "b",
    class: "GenericError",
    description: "no",
  });
  for (const line of ["", "7", "[]", "{", "{}", '{"event": 1}', '{"QMP": 1}']) {
    assert.throws(
      () => parseQmpMessage(line),
      (thrown) => isKluisError(thrown, "QmpFailed"),
      line,
    );
  }
});

test("QMP wire: writes a command as one line", () => {
  const bytes = encodeQmpCommand({ execute: "x", arguments: { text: "a\nb" }, id: "1" });
  const text = Buffer.from(bytes).toString();
  assert.equal(text.indexOf("\n"), text.length - 1);
  assert.deepEqual(JSON.parse(text), { execute: "x", arguments: { text: "a\nb" }, id: "1" });
});
