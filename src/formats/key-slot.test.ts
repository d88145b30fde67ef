// Goal: a slot parses back; every other text is refused with a named error, whatever it is.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { flipBit } from "#testing/damage.ts";
import { testSeed } from "#testing/seed.ts";
import {
  encodeKeySlot,
  encodeSlotFrame,
  parseKeySlot,
  slotBytesMax,
  type KeySlot,
  type SlotKdf,
  type SlotType,
} from "./key-slot.ts";

const bytesOf = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length });

const argon2: fc.Arbitrary<SlotKdf> = fc
  .tuple(
    bytesOf(32),
    fc.integer({ min: 65_536, max: 1_048_576 }),
    fc.integer({ min: 3, max: 16 }),
    fc.integer({ min: 1, max: 16 }),
  )
  .map(([salt, memoryKib, passes, parallelism]) => {
    return { name: "argon2id", salt, memoryKib, passes, parallelism };
  });
const hkdf: fc.Arbitrary<SlotKdf> = bytesOf(32).map((salt) => ({ name: "hkdf-sha256", salt }));
const wrapped: fc.Arbitrary<SlotKdf> = fc
  .tuple(
    fc.constantFrom("RSA-OAEP-256" as const, "A256KW" as const),
    fc.stringMatching(/^[\x21-\x7e]{1,80}$/),
    fc.boolean(),
    fc.uint8Array({ minLength: 40, maxLength: 512 }),
  )
  .map(([name, key, follow, bytes]) => ({ name, key, follow, wrapped: bytes }));
const kdfOf: Readonly<Record<SlotType, fc.Arbitrary<SlotKdf>>> = {
  passphrase: argon2,
  recovery: argon2,
  "key-file": hkdf,
  "customer-key": wrapped,
  "platform-key": wrapped,
};
const anySlot: fc.Arbitrary<KeySlot> = fc
  .constantFrom<SlotType>("passphrase", "recovery", "key-file", "customer-key", "platform-key")
  .chain((type) =>
    fc
      .tuple(
        bytesOf(16),
        kdfOf[type],
        bytesOf(32),
        bytesOf(12),
        fc.uint8Array({ minLength: 17, maxLength: 400 }),
      )
      .map(([vaultId, kdf, publicKey, nonce, sealed]) => {
        return { vaultId, type, kdf, publicKey, nonce, sealed };
      }),
  );

const sample: KeySlot = {
  vaultId: new Uint8Array(16).fill(1),
  type: "passphrase",
  kdf: {
    name: "argon2id",
    salt: new Uint8Array(32).fill(2),
    memoryKib: 65_536,
    passes: 3,
    parallelism: 4,
  },
  publicKey: new Uint8Array(32).fill(5),
  nonce: new Uint8Array(12).fill(3),
  sealed: new Uint8Array(60).fill(4),
};

function codeOf(bytes: Uint8Array): string {
  try {
    parseKeySlot(bytes);
    return "none";
  } catch (error) {
    assert.ok(isKluisError(error), String(error));
    return error.code;
  }
}

/** The sample's text with one place changed. */
function edited(from: string, to: string): Uint8Array {
  const text = new TextDecoder().decode(encodeKeySlot(sample));
  assert.ok(text.includes(from), from);
  return new TextEncoder().encode(text.replace(from, to));
}

test("key slot: parses back, and its frame is bound to all but nonce and seal", () => {
  fc.assert(
    fc.property(anySlot, (slot) => {
      assert.deepEqual(parseKeySlot(encodeKeySlot(slot)), slot);
      const same = { ...slot, nonce: new Uint8Array(12), sealed: new Uint8Array(99) };
      assert.deepEqual(encodeSlotFrame(same), encodeSlotFrame(slot));
    }),
    { seed: testSeed() },
  );
});

test("key slot: a flipped bit is refused or changes what the seal covers", () => {
  const bytes = encodeKeySlot(sample);
  for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
    const flipped = flipBit(bytes, bit);
    const code = codeOf(flipped);
    if (code !== "none") {
      assert.match(code, /^(ObjectCorrupt|StoreFormatNewer)$/, `bit ${bit}`);
      continue;
    }
    // Still a slot: then it is not the same one, which its name and its seal both tell.
    assert.notDeepEqual(parseKeySlot(flipped), sample, `bit ${bit}`);
  }
});

test("key slot: refuses what is out of bounds or out of form", () => {
  const corrupt = [
    edited('"memoryKib":65536', '"memoryKib":65535'),
    edited('"memoryKib":65536', '"memoryKib":1048577'),
    edited('"memoryKib":65536', '"memoryKib":1e999'),
    edited('"passes":3', '"passes":2'),
    edited('"passes":3', '"passes":17'),
    edited('"passes":3', '"passes":3.5'),
    edited('"parallelism":4', '"parallelism":0'),
    edited('"parallelism":4', '"parallelism":17'),
    edited('"parallelism":4', '"parallelism":"4"'),
    edited("argon2id", "hkdf-sha256"),
    edited("argon2id", "argon2i"),
    edited('"passphrase"', '"key-file"'),
    edited('"passphrase"', '"toString"'),
    edited('"version":1', '"version":0'),
    edited('"version":1', '"version": 1'),
    edited('"version":1', '"more":1,"version":1'),
    edited('"version":1', '"version":1,"version":1'),
    edited("kluis-key-slot", "other"),
    edited('"nonce":"03', '"nonce":"'),
    edited('"sealed":"04', '"sealed":"0G'),
    edited("}\n", "}"),
    edited("}\n", "}\n\n"),
    edited("{", "\ufeff{"),
    new Uint8Array(slotBytesMax + 1).fill(0x20),
    new TextEncoder().encode("null"),
    new TextEncoder().encode("[]"),
    new TextEncoder().encode('{"__proto__":{"format":"kluis-key-slot"}}'),
  ];
  for (const [at, bytes] of corrupt.entries())
    assert.equal(codeOf(bytes), "ObjectCorrupt", `${at}`);
  assert.equal(codeOf(edited('"version":1', '"version":2')), "StoreFormatNewer");
});

test("key slot: garbage is ObjectCorrupt", () => {
  const options = { seed: testSeed(), numRuns: 500 };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.equal(codeOf(bytes), "ObjectCorrupt");
    }),
    options,
  );
  fc.assert(
    fc.property(fc.json(), (text) => {
      assert.equal(codeOf(new TextEncoder().encode(text)), "ObjectCorrupt");
    }),
    options,
  );
});
