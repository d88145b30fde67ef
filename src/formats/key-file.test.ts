// Goal: a key file reads back; a damaged or foreign one is told before it is tried on a vault.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { flipBit } from "#testing/damage.ts";
import { testSeed } from "#testing/seed.ts";
import { encodeKeyFile, parseKeyFile } from "./key-file.ts";

const isInvalid = (error: unknown): boolean =>
  isKluisError(error, "ArgumentInvalid") && !/[0-9a-f]{8}/.test(error.message);

test("key file: parses back, also without its line end", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (secret) => {
      const text = encodeKeyFile(secret);
      assert.deepEqual(parseKeyFile(text), secret);
      assert.deepEqual(parseKeyFile(text.subarray(0, -1)), secret);
    }),
    { seed: testSeed() },
  );
});

test("key file: every flipped bit, cut and garbage is ArgumentInvalid", () => {
  const text = encodeKeyFile(new Uint8Array(32).fill(7));
  for (let bit = 0; bit < text.byteLength * 8; bit++) {
    assert.throws(() => parseKeyFile(flipBit(text, bit)), isInvalid, `bit ${bit}`);
  }
  for (let length = 0; length < text.byteLength - 1; length++) {
    assert.throws(() => parseKeyFile(text.subarray(0, length)), isInvalid);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.throws(() => parseKeyFile(bytes), isInvalid);
    }),
    { seed: testSeed() },
  );
});
