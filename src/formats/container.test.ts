// Goal: the parts of a container have exactly the bytes of docs/design/vault-format.md §4, and
// whatever else is read is refused with a typed error that names the object.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { createSeededRandom, readTestSeed, type SeededRandom } from "#testing/seeded-random.ts";
import {
  type ContainerHeader,
  containerHeaderBytes,
  encodeContainerHeader,
  encodeTrailer,
  type FrameHeader,
  frameHeaderBytes,
  parseContainerHeader,
  parseFrameHeader,
  parseTrailer,
  sealedBytesMax,
  trailerBytes,
  writeFrameHeader,
} from "./container.ts";

const seed = readTestSeed();
const object = "packs/00/00";

const header = fc.record(
  {
    typeByte: fc.integer({ min: 1, max: 4 }),
    epoch: fc.nat(2 ** 32 - 1),
    salt: fc.uint8Array({ minLength: 32, maxLength: 32 }),
    vaultId: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  },
  { noNullPrototype: true },
);

const frameHeader = fc
  .record({
    sealedBytes: fc.integer({ min: 1, max: sealedBytesMax }),
    plainBytes: fc.integer({ min: 1, max: frameBytesMax }),
    frame: fc.nat(2 ** 32 - 1),
    kind: fc.constantFrom("content", "footer"),
    codec: fc.constantFrom("stored", "zstd"),
  })
  .map((value): FrameHeader => {
    const isStored = value.codec === "stored";
    return { ...value, sealedBytes: isStored ? value.plainBytes : value.sealedBytes };
  });

/** What `parse` gives, or `undefined` where it refuses as it should. */
function attempt<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    const isTyped = isKluisError(error, "ObjectCorrupt") || isKluisError(error, "StoreFormatNewer");
    assert.ok(isTyped, String(error));
    assert.ok(error.message.includes(object), error.message);
    return undefined;
  }
}

test("container: a header has the bytes of the format", () => {
  const value: ContainerHeader = {
    typeByte: 3,
    epoch: 0x01020304,
    salt: new Uint8Array(32).fill(0xaa),
    vaultId: new Uint8Array(16).fill(0xbb),
  };
  const expected = `${Buffer.from("KLUISV1\n").toString("hex")}0301000004030201${"aa".repeat(32)}${"bb".repeat(16)}`;
  assert.equal(Buffer.from(encodeContainerHeader(value)).toString("hex"), expected);
});

test("container: a frame header and a trailer have the bytes of the format", () => {
  const bytes = new Uint8Array(20).fill(0xff);
  const value = {
    sealedBytes: 0x0102,
    plainBytes: 0x0203,
    frame: 7,
    kind: "footer",
    codec: "zstd",
  } as const;
  writeFrameHeader(bytes, 2, value);
  assert.equal(Buffer.from(bytes).toString("hex"), "ffff02010000030200000700000002010000ffff");
  assert.equal(
    Buffer.from(encodeTrailer(0x010203)).toString("hex"),
    `0302010000000000${Buffer.from("KLUISEND").toString("hex")}`,
  );
});

test("container: headers, frame headers and trailers read back", () => {
  fc.assert(
    fc.property(header, frameHeader, fc.nat(100), fc.nat(2 ** 40), (head, frame, at, offset) => {
      const room = new Uint8Array(containerHeaderBytes + at);
      room.set(encodeContainerHeader(head));
      assert.deepEqual(parseContainerHeader(room, object), head);
      const bytes = new Uint8Array(at + frameHeaderBytes + 3);
      writeFrameHeader(bytes, at, frame);
      assert.deepEqual(parseFrameHeader(bytes, at, object), frame);
      const objectBytes = containerHeaderBytes + offset + trailerBytes + 1;
      const footer = offset % 5 === 0 ? 0 : containerHeaderBytes + offset;
      assert.equal(parseTrailer(encodeTrailer(footer), objectBytes, object), footer);
    }),
    { seed, numRuns: 3000 },
  );
});

test("container: parsed salts and ids are copies", () => {
  const bytes = encodeContainerHeader({
    typeByte: 1,
    epoch: 1,
    salt: new Uint8Array(32).fill(1),
    vaultId: new Uint8Array(16).fill(2),
  });
  const parsed = parseContainerHeader(bytes, object);
  bytes.fill(0);
  assert.deepEqual([parsed.salt[0], parsed.vaultId[0]], [1, 2]);
});

test("container: every header byte that differs is refused or is part of a value", () => {
  const whole = encodeContainerHeader({
    typeByte: 2,
    epoch: 9,
    salt: new Uint8Array(32).fill(3),
    vaultId: new Uint8Array(16).fill(6),
  });
  for (let at = 0; at < containerHeaderBytes; at++) {
    for (let value = 0; value < 256; value++) {
      if (whole[at] === value) continue;
      const changed = new Uint8Array(whole);
      changed[at] = value;
      const parsed = attempt(() => parseContainerHeader(changed, object));
      const isValue = at >= 12 || (at === 8 && value >= 1 && value <= 6);
      assert.equal(parsed !== undefined, isValue, `byte ${at} = ${value}`);
      if (parsed !== undefined)
        assert.deepEqual(encodeContainerHeader(parsed), Buffer.from(changed));
    }
  }
});

test("container: a newer version is told from damage", () => {
  const bytes = encodeContainerHeader({
    typeByte: 1,
    epoch: 1,
    salt: new Uint8Array(32),
    vaultId: new Uint8Array(16),
  });
  bytes[9] = 2;
  assert.throws(
    () => parseContainerHeader(bytes, object),
    (error) => isKluisError(error, "StoreFormatNewer"),
  );
});

test("container: frame headers beyond any bound are refused", () => {
  const good = {
    sealedBytes: 10,
    plainBytes: 20,
    frame: 0,
    kind: "content",
    codec: "zstd",
  } as const;
  const bad: Partial<Record<keyof FrameHeader, unknown>>[] = [
    { sealedBytes: 0 },
    { sealedBytes: sealedBytesMax + 1 },
    { plainBytes: 0 },
    { plainBytes: frameBytesMax + 1 },
    { codec: "stored" },
  ];
  const bytes = new Uint8Array(frameHeaderBytes);
  for (const change of bad) {
    writeFrameHeader(bytes, 0, { ...good, ...change } as FrameHeader);
    assert.equal(
      attempt(() => parseFrameHeader(bytes, 0, object)),
      undefined,
      JSON.stringify(change),
    );
  }
  writeFrameHeader(bytes, 0, good);
  for (let length = 0; length < frameHeaderBytes; length++) {
    assert.equal(
      attempt(() => parseFrameHeader(bytes.subarray(0, length), 0, object)),
      undefined,
    );
  }
  assert.equal(
    attempt(() => parseFrameHeader(bytes, 1, object)),
    undefined,
  );
});

test("container: a footer outside of the object is refused", () => {
  const objectBytes = 1000;
  for (const offset of [1, 63, 984, 985, 1000, 2 ** 53]) {
    const trailer = encodeTrailer(offset);
    assert.equal(
      attempt(() => parseTrailer(trailer, objectBytes, object)),
      undefined,
      `${offset}`,
    );
  }
  const huge = Buffer.alloc(trailerBytes, 0xff);
  huge.write("KLUISEND", 8, "latin1");
  assert.equal(
    attempt(() => parseTrailer(huge, objectBytes, object)),
    undefined,
  );
});

/** Up to three bytes of `bytes` changed, at times cut. */
function mutate(random: SeededRandom, bytes: Uint8Array): Uint8Array {
  const changed = new Uint8Array(bytes);
  for (let changes = random.integer(0, 3); changes > 0; changes--) {
    changed[random.integer(0, bytes.length - 1)] = random.pick([0, 1, 2, 3, 255, 128, 64]);
  }
  return random.chance(0.1) ? changed.subarray(0, random.integer(0, bytes.length)) : changed;
}

test("container: changed texts are read or refused, and what is read encodes to the same", () => {
  const random = createSeededRandom("container fuzz");
  const runs = process.env["KLUIS_LONG"] === "1" ? 2_000_000 : 20_000;
  const salt = random.bytes(32);
  const head = encodeContainerHeader({ typeByte: 1, epoch: 1, salt, vaultId: random.bytes(16) });
  const frame = new Uint8Array(frameHeaderBytes);
  writeFrameHeader(frame, 0, {
    sealedBytes: 10,
    plainBytes: 20,
    frame: 2,
    kind: "content",
    codec: "zstd",
  });
  const read = [0, 0, 0];
  for (let run = 0; run < runs; run++) {
    const headText = mutate(random, head);
    const parsed = attempt(() => parseContainerHeader(headText, object));
    if (parsed !== undefined) {
      read[0]!++;
      assert.deepEqual(encodeContainerHeader(parsed), Buffer.from(headText));
    }
    const frameText = mutate(random, frame);
    const parsedFrame = attempt(() => parseFrameHeader(frameText, 0, object));
    if (parsedFrame !== undefined) {
      read[1]!++;
      const again = new Uint8Array(frameHeaderBytes);
      writeFrameHeader(again, 0, parsedFrame);
      assert.deepEqual(again, frameText);
    }
    const tail = mutate(random, encodeTrailer(random.integer(0, 2000)));
    const footer = attempt(() => parseTrailer(tail, 1000, object));
    if (footer !== undefined) {
      read[2]!++;
      assert.deepEqual(encodeTrailer(footer), Buffer.from(tail));
    }
  }
  console.log(`${runs} texts of each part; read: ${read.join(", ")}`);
  assert.ok(read.every((count) => count > runs / 20 && count < runs));
});
