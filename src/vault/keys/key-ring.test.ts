// Goal: a ring parses back, and no other bytes pass for one.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { createKeyRing, encodeKeyEpochs, keyEpochsMax, parseKeyEpochs } from "./key-ring.ts";
import type { KeyEpoch } from "./vault-keys.ts";

const anyEpochs: fc.Arbitrary<KeyEpoch[]> = fc
  .tuple(fc.uniqueArray(fc.integer({ min: 2, max: 2 ** 32 - 1 }), { maxLength: 20 }), fc.integer())
  .map(([numbers, seed]) => {
    const random = createSeededRandom("epochs", seed);
    const ascending = [1, ...numbers.sort((a, b) => a - b)];
    return ascending.map((epoch) => ({ epoch, masterKey: random.bytes(32) }));
  });

const isCorrupt = (error: unknown): boolean => isKluisError(error, "ObjectCorrupt");

test("key ring: parses back, and no cut of it parses", () => {
  fc.assert(
    fc.property(anyEpochs, (epochs) => {
      const bytes = encodeKeyEpochs(epochs);
      assert.deepEqual(parseKeyEpochs(bytes), epochs);
      assert.throws(() => parseKeyEpochs(bytes.subarray(0, -1)), isCorrupt);
      assert.throws(() => parseKeyEpochs(Buffer.concat([bytes, bytes.subarray(0, 1)])), isCorrupt);
    }),
    { seed: testSeed() },
  );
});

test("key ring: garbage is ObjectCorrupt or encodes to itself", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      try {
        assert.deepEqual(encodeKeyEpochs(parseKeyEpochs(bytes)), bytes);
      } catch (error) {
        assert.ok(isCorrupt(error), String(error));
      }
    }),
    { seed: testSeed(), numRuns: 1000 },
  );
});

test("key ring: epochs ascend from 1 and are bounded", () => {
  const key = new Uint8Array(32);
  const ring = (...numbers: number[]): Uint8Array =>
    Buffer.concat([Buffer.from([numbers.length]), ...numbers.map((n) => Buffer.from([n, ...key]))]);
  assert.equal(parseKeyEpochs(ring(1, 2, 5)).length, 3);
  for (const numbers of [[], [2], [0], [1, 1], [1, 3, 2]]) {
    assert.throws(() => parseKeyEpochs(ring(...numbers)), isCorrupt, String(numbers));
  }
  const many = Array.from({ length: keyEpochsMax + 1 }, (_, at) => ({
    epoch: at + 1,
    masterKey: key,
  }));
  assert.throws(() => encodeKeyEpochs(many), /1 to 256 epochs/);
  assert.equal(parseKeyEpochs(encodeKeyEpochs(many.slice(0, -1))).length, keyEpochsMax);
});

test("key ring: a new one has a fresh id and key", () => {
  const random = createSeededRandom("rings");
  const [one, other] = [createKeyRing(random), createKeyRing(random)];
  assert.equal(one.epochs[0]?.epoch, 1);
  assert.notDeepEqual(one.vaultId, other.vaultId);
  assert.notDeepEqual(one.epochs[0].masterKey, other.epochs[0]?.masterKey);
});
