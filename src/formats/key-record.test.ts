// Goal: a key record parses back; every other text is refused with a named error, without a key.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import * as fc from "fast-check";

import { compareBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { flipBit } from "#testing/damage.ts";
import { testSeed } from "#testing/seed.ts";
import {
  encodeKeyRecord,
  encodeRecordBody,
  type KeyRecord,
  keyRecordBytesMax,
  parseKeyRecord,
} from "./key-record.ts";

const bytesOf = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length });
const plain = { noNullPrototype: true };
const listed = fc.record(
  {
    slot: bytesOf(32),
    publicKey: bytesOf(32),
    box: fc.uint8Array({ minLength: 17, maxLength: 90 }),
  },
  plain,
);
const members = {
  vaultId: bytesOf(16),
  number: fc.integer({ min: 1, max: 4096 }),
  epoch: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
  senderKey: bytesOf(32),
  slots: fc
    .uniqueArray(listed, { minLength: 1, maxLength: 32, selector: ({ slot }) => slot.join() })
    .map((slots) => slots.sort((a, b) => compareBytes(a.slot, b.slot))),
  mac: bytesOf(32),
};
const anyRecord: fc.Arbitrary<KeyRecord> = fc.record(members, plain);

const sample: KeyRecord = {
  vaultId: new Uint8Array(16).fill(1),
  number: 7,
  epoch: 3,
  senderKey: new Uint8Array(32).fill(2),
  slots: [3, 4].map((fill) => ({
    slot: new Uint8Array(32).fill(fill),
    publicKey: new Uint8Array(32).fill(9),
    box: new Uint8Array(70).fill(5),
  })),
  mac: new Uint8Array(32).fill(6),
};

function codeOf(bytes: Uint8Array): string {
  try {
    parseKeyRecord(bytes);
    return "none";
  } catch (error) {
    assert.ok(isKluisError(error), String(error));
    return error.code;
  }
}

/** The sample's text with one place changed and a checksum that fits. */
function edited(from: string, to: string): Uint8Array {
  const text = new TextDecoder().decode(encodeKeyRecord(sample));
  assert.ok(text.includes(from), from);
  const body = text.replace(from, to).split(',"sha256":')[0] ?? "";
  const checksum = createHash("sha256").update(body).digest("hex");
  return new TextEncoder().encode(`${body},"sha256":"${checksum}"}\n`);
}

test("key record: parses back, and its body is bound to all but the MAC", () => {
  fc.assert(
    fc.property(anyRecord, (record) => {
      assert.deepEqual(parseKeyRecord(encodeKeyRecord(record)), record);
      const body = encodeRecordBody({ ...record, mac: new Uint8Array(32) } as KeyRecord);
      assert.deepEqual(body, encodeRecordBody(record));
    }),
    { seed: testSeed() },
  );
});

test("key record: every flipped bit and every cut is ObjectCorrupt", () => {
  const bytes = encodeKeyRecord(sample);
  for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
    assert.equal(codeOf(flipBit(bytes, bit)), "ObjectCorrupt", `bit ${bit}`);
  }
  for (let length = 0; length < bytes.byteLength; length++) {
    assert.equal(codeOf(bytes.subarray(0, length)), "ObjectCorrupt", `cut at ${length}`);
  }
});

test("key record: refuses what is out of bounds or out of form, checksum or not", () => {
  const [first = "", second = ""] = ["03", "04"].map((digits) => digits.repeat(32));
  const corrupt = [
    edited('"number":7', '"number":0'),
    edited('"number":7', '"number":4097'),
    edited('"epoch":3', '"epoch":0'),
    edited('"epoch":3', '"epoch":4294967296'),
    edited('"epoch":3', '"epoch": 3'),
    edited('"epoch":3', '"epoch":3,"epoch":3'),
    edited('"epoch":3', '"epoch":3,"more":1'),
    edited("kluis-key-record", "kluis-key-slot"),
    edited('"version":1', '"version":0'),
    edited('"slots":[', '"slots":[7,'),
    edited('"slots":[', '"slot":['),
    edited(first, second),
    edited(second, "02".repeat(32)),
    edited('"senderKey":"02', '"senderKey":"'),
    edited('"mac":"06', '"mac":"0606'),
    new Uint8Array(keyRecordBytesMax + 1).fill(0x20),
    new TextEncoder().encode("null"),
  ];
  for (const [at, bytes] of corrupt.entries()) {
    assert.equal(codeOf(bytes), "ObjectCorrupt", `${at}`);
  }
  assert.equal(codeOf(edited('"version":1', '"version":2')), "StoreFormatNewer");
  const empty = new TextDecoder().decode(encodeKeyRecord(sample)).replace(/\[.*\]/, "[]");
  assert.equal(codeOf(new TextEncoder().encode(empty)), "ObjectCorrupt");
});

test("key record: garbage is ObjectCorrupt", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      assert.equal(codeOf(bytes), "ObjectCorrupt");
    }),
    { seed: testSeed(), numRuns: 500 },
  );
});
