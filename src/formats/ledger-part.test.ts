// Goal: a part reads back as it was written, and no other text is taken for one: one content has one
// encoding, and whatever is thrown at the parser is ObjectCorrupt in bounded time.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import {
  encodeLedgerBody,
  encodeLedgerMac,
  ledgerGenerationMax,
  type LedgerLine,
  ledgerNumberMax,
  type LedgerPart,
  parseLedgerPart,
} from "./ledger-part.ts";
import { packName } from "./store-names.ts";

const sha = fc.uint8Array({ minLength: 32, maxLength: 32 });
const hash = sha.map(toHex);
const name = sha.map(packName);
const number = fc.integer({ min: 0, max: ledgerNumberMax });
const generation = fc.integer({ min: 0, max: ledgerGenerationMax });
const count = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const kind = <const K extends LedgerLine["kind"]>(text: K): fc.Arbitrary<K> => fc.constant(text);

const plain = { noNullPrototype: true } as const;

const line: fc.Arbitrary<LedgerLine> = fc.oneof(
  fc.record({ kind: kind("after"), sha256: hash }, plain),
  fc.record({ kind: kind("replaces"), generation, sha256: hash }, plain),
  fc.record({ kind: kind("add"), number, sizeBytes: count, name }, plain),
  fc.record({ kind: kind("add"), number, sizeBytes: count, name, sha256: hash }, plain),
  fc.record({ kind: kind("remove"), generation, name }, plain),
  fc.record({ kind: fc.constantFrom("damaged", "sound"), number, name }, plain),
  fc.record(
    {
      kind: fc.constantFrom("checked", "opened"),
      atMs: count,
      upTo: number,
      objects: count,
      bytes: count,
      from: name,
      to: name,
    },
    plain,
  ),
);

const part: fc.Arbitrary<LedgerPart> = fc.record(
  {
    folder: fc.constantFrom("inventory", "findings"),
    vaultId: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    number,
    lines: fc.array(line, { maxLength: 12 }),
  },
  plain,
);

function encode(value: LedgerPart, epoch: number, mac: Uint8Array): Uint8Array {
  return concatBytes([encodeLedgerBody(value), encodeLedgerMac(epoch, mac)]);
}

function isCorrupt(error: unknown): boolean {
  return isKluisError(error, "ObjectCorrupt") && error.details["object"] === "inventory/x";
}

test("ledger part: reads back as it was written", () => {
  fc.assert(
    fc.property(part, fc.integer({ min: 1, max: 2 ** 32 - 1 }), sha, (value, epoch, mac) => {
      const bytes = encode(value, epoch, mac);
      const {
        body,
        epoch: readEpoch,
        mac: readMac,
        ...read
      } = parseLedgerPart(bytes, "inventory/x");
      assert.deepEqual({ ...read, lines: [...read.lines] }, value);
      assert.deepEqual([readEpoch, Buffer.from(readMac)], [epoch, Buffer.from(mac)]);
      assert.deepEqual(Buffer.from(body), Buffer.from(encodeLedgerBody(value)));
    }),
    { seed: testSeed(), numRuns: 300 },
  );
});

test("ledger part: one content has one encoding, whatever byte is changed", () => {
  fc.assert(
    fc.property(part, sha, fc.nat(), fc.nat({ max: 255 }), (value, mac, place, byte) => {
      const bytes = encode(value, 1, mac);
      const changed = bytes.slice();
      changed[place % bytes.length] = byte;
      try {
        const read = parseLedgerPart(changed, "inventory/x");
        assert.deepEqual(Buffer.from(encode(read, read.epoch, read.mac)), Buffer.from(changed));
      } catch (error) {
        assert.ok(isCorrupt(error));
      }
    }),
    { seed: testSeed(), numRuns: 1000 },
  );
});

test("ledger part: refuses what is no part", () => {
  const whole = encode(
    { folder: "inventory", vaultId: new Uint8Array(16), number: 7, lines: [] },
    1,
    new Uint8Array(32),
  );
  const text = Buffer.from(whole).toString("latin1");
  const wrong = [
    "",
    "mac 1 00",
    text.slice(0, -1),
    `${text}\n`,
    text.replace(" 7\n", " 07\n"),
    text.replace("mac 1", "mac 01"),
    text.replace("mac", "add 1 1 ../x\nmac"),
    text.replace("mac", `add 1 1 ${"a".repeat(201)}\nmac`),
    text.replace("mac", "add 1 1\nmac"),
    text.replace("mac", "remove 4 packs/a\nmac"),
    text.replace("mac", "\nmac"),
    text.replace("inventory 1", "inventory 2"),
  ];
  for (const one of wrong) {
    assert.throws(() => parseLedgerPart(Buffer.from(one, "latin1"), "inventory/x"), isCorrupt, one);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      assert.throws(() => parseLedgerPart(bytes, "inventory/x"), isCorrupt);
    }),
    { seed: testSeed() },
  );
});
