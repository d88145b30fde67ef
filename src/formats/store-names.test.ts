// Goal: every name that is built parses back to what it was built from, and nothing else parses.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { isObjectName } from "./object-name.ts";
import * as names from "./store-names.ts";

const sha = fc.uint8Array({ minLength: 32, maxLength: 32 });
const itemHash = fc.uint8Array({ minLength: 16, maxLength: 16 });

const hashedNames = [
  ["slot", names.slotName],
  ["pack", names.packName],
  ["map-pack", names.mapPackName],
  ["index-segment", names.indexSegmentName],
] as const;

test("store names: names of content parse back", () => {
  fc.assert(
    fc.property(sha, fc.constantFrom(...hashedNames), (sha256, [kind, build]) => {
      const name = build(sha256);
      assert.ok(isObjectName(name) && name.endsWith(toHex(sha256)));
      assert.deepEqual(names.parseStoreName(name), { kind, sha256 });
    }),
    { seed: testSeed() },
  );
  const zeros = "0".repeat(64);
  assert.equal(names.packName(new Uint8Array(32)), `packs/00/${zeros}`);
  assert.equal(names.mapPackName(new Uint8Array(32)), `maps/00/${zeros}`);
  assert.equal(names.indexSegmentName(new Uint8Array(32)), `index/${zeros}`);
  assert.equal(names.slotName(new Uint8Array(32)), `keys/${zeros}`);
});

test("store names: parts of ledgers parse back", () => {
  const folders = fc.constantFrom("inventory" as const, "findings" as const);
  fc.assert(
    fc.property(folders, sha, fc.integer({ min: 0, max: 2 ** 48 - 1 }), (kind, sha256, number) => {
      const name = names.ledgerName(kind, number, sha256);
      assert.ok(isObjectName(name) && name.endsWith(toHex(sha256)));
      assert.deepEqual(names.parseStoreName(name), { kind, number, sha256 });
      for (const wrong of [`${name}0`, name.slice(0, -1), name.replace("-", "_"), `${name}/a`]) {
        assert.equal(names.parseStoreName(wrong), undefined);
      }
    }),
    { seed: testSeed() },
  );
});

test("store names: manifests parse back and lie below their item", () => {
  const random = createSeededRandom("store names");
  const clock = { nowMs: () => 1_700_000_000_123, monotonicMs: () => 0, sleep: async () => {} };
  fc.assert(
    fc.property(itemHash, (hash) => {
      const item = names.toItemText(hash);
      const point = names.createPointId(clock, random);
      const name = names.pointName(item, point);
      assert.ok(isObjectName(name) && name.startsWith(names.itemPrefix(item)));
      assert.deepEqual(names.parseStoreName(name), { kind: "manifest", item, point });
      assert.equal(names.pointIdTimeMs(point), 1_700_000_000_123);
      assert.equal(names.parsePointId(point), point);
    }),
    { seed: testSeed() },
  );
});

test("store names: a point id sorts by time and bounds a clock that is wrong", () => {
  const random = createSeededRandom("point ids");
  const at = (nowMs: number): string =>
    names.createPointId(
      { nowMs: () => nowMs, monotonicMs: () => 0, sleep: async () => {} },
      random,
    );
  assert.ok(at(1000) < at(1001) && at(1001) < at(2 ** 47));
  for (const nowMs of [-5, 0, 0.5, 2 ** 60]) assert.ok(names.isPointId(at(nowMs)));
});

test("store names: the name of a key record and of its copy says which it is", () => {
  const vault = "0f".repeat(16);
  for (const number of [1, 255, names.keyRecordsMax]) {
    for (const isCopy of [false, true]) {
      const name = names.keyRecordName({ vault, number }, { isCopy });
      assert.deepEqual(names.parseStoreName(name), { kind: "key-record", vault, number, isCopy });
    }
  }
  assert.equal(names.keyRecordName({ vault, number: 26 }), `ring/${vault}-0000001a`);
  for (const tail of ["00000000", "00001001", "0000001", "0000001A", "00000001-cop", "ffffffff"]) {
    assert.equal(names.parseStoreName(`ring/${vault}-${tail}`), undefined, tail);
  }
});

test("store names: refuses every other name", () => {
  const hash = "ab".repeat(32);
  const bad = [
    ["", "vault.jso", "vault.json/", "keys", "keys/", `keys/${hash}0`, `keys/${hash}/x`],
    [`keys/${hash.slice(1)}`, `packs/${hash}`, `packs/ac/${hash}`, `packs/ab/${hash}/`],
    [`keys/${hash.toUpperCase()}`, `maps/ab/${hash.slice(2)}`, `other/${hash}`],
    ["points/x/y", `points/${"a".repeat(32)}`, `points/${"a".repeat(32)}/0-0`],
  ].flat();
  for (const name of bad) assert.equal(names.parseStoreName(name), undefined, name);
  fc.assert(
    fc.property(fc.string({ maxLength: 30 }), (text) => {
      assert.equal(names.parseStoreName(`${text}!`), undefined);
    }),
    { seed: testSeed() },
  );
});

test("store names: an id that a user typed wrong gets a clear error", () => {
  for (const text of ["", "../../etc/passwd", "0123456789ab-0123456789abcdeF", "x\ny"]) {
    assert.throws(
      () => names.parsePointId(text),
      (error) => isKluisError(error, "ArgumentInvalid") && !error.message.includes("\n"),
    );
  }
});
