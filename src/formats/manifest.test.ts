// Goal: a manifest reads back as it was written, and whatever else is read is refused with a typed
// error that names the object. Method: random manifests, and hostile changes to their text.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { createSeededRandom, readTestSeed } from "#testing/seeded-random.ts";
import { encodeManifest, type Manifest, type ManifestDisk, parseManifest } from "./manifest.ts";

const seed = readTestSeed();
const object = "points/0123/45-67";
const count = fc.nat(Number.MAX_SAFE_INTEGER);
const text = fc.string({ unit: "grapheme", maxLength: 40 });
const optional = { requiredKeys: [] };

const disk = fc
  .tuple(
    fc.record({
      name: text,
      sizeBytes: fc.nat(2 ** 52),
      root: fc.option(fc.uint8Array({ minLength: 24, maxLength: 24 }), { nil: undefined }),
      level: fc.nat(16),
      tracking: fc.constantFrom("full", "snapshot-difference", "dirty-bitmap", "checksum"),
      mappedBytes: count,
      examinedBytes: count,
      changedBytes: count,
      newBytes: count,
      storedBytes: count,
    }),
    fc.record(
      {
        trackingReason: text,
        isEncrypted: fc.boolean(),
        source: text,
        rewrite: fc.record({ cursor: count, creditPages: fc.nat(63) }, { noNullPrototype: true }),
      },
      optional,
    ),
  )
  .map(([required, rest]) => ({ ...required, ...rest }));

const manifest = fc
  .tuple(
    fc.record({
      pointId: text,
      itemId: text,
      itemName: text,
      takenAtMs: count,
      committedAtMs: count,
      consistency: fc.constantFrom("application", "file-system", "crash"),
      disks: fc.uniqueArray(disk, { maxLength: 5, selector: ({ name }) => name }),
    }),
    fc.record(
      {
        consistencyReason: text,
        consistencyEvidence: fc.string({ maxLength: 5000 }),
        frozenMs: count,
        basePointId: text,
        snapshotId: text,
        vmConfiguration: fc.string({ maxLength: 5000 }),
      },
      optional,
    ),
  )
  .map(([required, rest]) => ({ ...required, ...rest }));

/** Whether the bytes were refused, and as they should be. */
function isRefused(bytes: Uint8Array): boolean {
  try {
    parseManifest(bytes, object);
    return false;
  } catch (error) {
    assert.ok(isKluisError(error, "ObjectCorrupt"), String(error));
    assert.equal(error.details["object"], object);
    return true;
  }
}

function sample(): Manifest {
  return {
    pointId: "000000000001-0000000000000000",
    itemId: "item",
    itemName: "vm",
    takenAtMs: 1,
    committedAtMs: 2,
    consistency: "crash",
    disks: [
      {
        name: "vda",
        sizeBytes: 4096,
        root: new Uint8Array(24).fill(7),
        level: 0,
        tracking: "full",
        mappedBytes: 1,
        examinedBytes: 2,
        changedBytes: 3,
        newBytes: 4,
        storedBytes: 5,
        rewrite: { cursor: 6, creditPages: 7 },
      },
    ],
  };
}

test("manifest: reads back as it was written", () => {
  fc.assert(
    fc.property(manifest, (value) => {
      assert.deepEqual(parseManifest(encodeManifest(value), object), value);
    }),
    { seed, numRuns: 2000 },
  );
});

test("manifest: members that a later version adds are let through", () => {
  const later = JSON.parse(Buffer.from(encodeManifest(sample())).toString()) as Manifest;
  const text = JSON.stringify({ ...later, colour: "blue", disks: [{ ...later.disks[0], x: [1] }] });
  assert.deepEqual(parseManifest(Buffer.from(text), object), sample());
});

test("manifest: refuses to write what could not be read back, and names the member", () => {
  const disk = sample().disks[0] as ManifestDisk;
  const bad: [string, Partial<Manifest> | { disks: Partial<ManifestDisk>[] }][] = [
    ["itemName", { itemName: "x".repeat(4097) }],
    ["takenAtMs", { takenAtMs: -1 }],
    ["frozenMs", { frozenMs: 1.5 }],
    ["vmConfiguration", { vmConfiguration: "x".repeat(1024 * 1024 + 1) }],
    ["disks", { disks: [disk, disk] }],
    ["disks", { disks: Array.from({ length: 1025 }, (_, at) => ({ ...disk, name: `d${at}` })) }],
    ["mappedBytes", { disks: [{ ...disk, mappedBytes: -262_144 }] }],
    ["storedBytes", { disks: [{ ...disk, storedBytes: Number.NaN }] }],
    ["sizeBytes", { disks: [{ ...disk, sizeBytes: 2 ** 52 + 512 }] }],
    ["level", { disks: [{ ...disk, level: 17 }] }],
    ["root", { disks: [{ ...disk, root: new Uint8Array(23) }] }],
    ["creditPages", { disks: [{ ...disk, rewrite: { cursor: 0, creditPages: 64 } }] }],
  ];
  for (const [member, change] of bad) {
    assert.throws(
      () => encodeManifest({ ...sample(), ...change } as Manifest),
      (error) => isKluisError(error, "ArgumentInvalid") && error.message.includes(`"${member}"`),
      member,
    );
  }
});

test("manifest: minus zero, which no writer writes, is refused", () => {
  const text = Buffer.from(encodeManifest(sample())).toString();
  const changed = text.replace('"takenAtMs":1', '"takenAtMs":-0');
  assert.notEqual(changed, text);
  assert.throws(
    () => parseManifest(Buffer.from(changed), object),
    (error) => isKluisError(error, "ObjectCorrupt"),
  );
});

/** A value of another kind than any that a manifest has at that place, or beyond its bounds. */
const oddities: readonly unknown[] = [
  undefined,
  null,
  true,
  -1,
  0.5,
  1e300,
  "",
  "\u0000\uD800",
  "x".repeat(5000),
  [],
  {},
  [[[[]]]],
  { length: 1e9 },
];

/** `value` with one member, at any depth, replaced; the paths to choose from are counted on the way. */
function replaceMember(
  value: unknown,
  target: number,
  oddity: unknown,
): { value: unknown; paths: number } {
  let paths = 0;
  function copy(part: unknown): unknown {
    if (paths++ === target) return oddity;
    if (Array.isArray(part)) return part.map(copy);
    if (typeof part !== "object" || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, member]) => [key, copy(member)]));
  }
  return { value: copy(value), paths };
}

test("manifest: every member replaced by every oddity is refused or harmless", () => {
  const plain: unknown = JSON.parse(Buffer.from(encodeManifest(sample())).toString());
  const { paths } = replaceMember(plain, -1, undefined);
  let cases = 0;
  let refused = 0;
  for (let target = 0; target < paths; target++) {
    for (const oddity of oddities) {
      const changed = JSON.stringify(replaceMember(plain, target, oddity).value) ?? "";
      cases++;
      if (isRefused(Buffer.from(changed))) refused++;
    }
  }
  console.log(`${cases} replaced members, ${refused} refused`);
  assert.ok(refused > cases * 0.7);
});

const jsonBytes = [...Buffer.from('0123456789-.eE"{}[],: nulltrue')];

test("manifest: bytes changed, cut, doubled or made up are refused or harmless", () => {
  const random = createSeededRandom("manifest fuzz");
  const runs = process.env["KLUIS_LONG"] === "1" ? 500_000 : 25_000;
  const whole = encodeManifest(sample());
  let refused = 0;
  for (let run = 0; run < runs; run++) {
    let bytes: Uint8Array = whole.slice();
    const kind = random.integer(0, 3);
    if (kind === 0) bytes = random.bytes(random.integer(0, 300));
    else if (kind === 1) bytes = bytes.subarray(0, random.integer(0, bytes.length - 1));
    else if (kind === 2) {
      const at = random.integer(0, bytes.length);
      const from = random.integer(0, bytes.length);
      bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(from)]);
    } else {
      for (let changes = random.integer(1, 4); changes > 0; changes--) {
        const at = random.integer(0, bytes.length - 1);
        bytes[at] = random.chance(0.5) ? random.integer(0, 255) : random.pick(jsonBytes);
      }
    }
    if (isRefused(bytes)) refused++;
  }
  console.log(`${runs} changed texts, ${refused} refused`);
  assert.ok(refused > runs / 2);
});

test("manifest: deep nesting and endless lists are refused without harm", () => {
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  assert.ok(isRefused(Buffer.from(deep)));
  assert.ok(isRefused(Buffer.from(`{"disks":${deep}}`)));
  assert.ok(isRefused(Buffer.from(`{"disks":[${"{},".repeat(100_000)}{}]}`)));
});
