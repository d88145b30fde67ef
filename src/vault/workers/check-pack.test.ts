// Goal: a pack is called sound only if its name, every frame and every block are right, and all blocks
// that the index names were looked at. Method: one pack as it was written, then with one thing wrong.
import assert from "node:assert/strict";
import { test } from "node:test";

import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { computeId, computeName } from "#vault/hashing.ts";
import { PackBuilder } from "#vault/pack/pack-builder.ts";
import { isPackSound, type PackToCheck } from "./check-pack.ts";

const random = createSeededRandom("check pack");
const blockBytes = 5000;

/** A pack of two frames with two blocks each. */
function createPack(type: PackToCheck["type"]): PackToCheck {
  const key = type === "pack" ? testKeys.blockIdKey : testKeys.nodeIdKey;
  const builder = new PackBuilder({ type, keys: testKeys, random, verify: true });
  for (let frame = 0; frame < 2; frame++) {
    const plain = random.bytes(2 * blockBytes);
    const blocks = [0, 1].map((at) => {
      const content = plain.subarray(at * blockBytes, (at + 1) * blockBytes);
      return {
        id: computeId(key, content),
        offsetBytes: at * blockBytes,
        lengthBytes: blockBytes,
      };
    });
    builder.add(plain, blocks, { compress: true });
  }
  const { bytes, table } = builder.finish();
  const content = new Uint8Array(bytes);
  const { entries, frames, epoch, salt } = table;
  return {
    type,
    buffer: content.buffer,
    packName: "packs/test",
    sha256: computeName(content),
    epoch,
    salt,
    sealedBytes: Uint32Array.from(frames, ({ sealedBytes }) => sealedBytes),
    plainBytes: Uint32Array.from(frames, ({ plainBytes }) => plainBytes),
    ids: new Uint8Array(entries.flatMap(({ id }) => [...id])),
    frames: Uint32Array.from(entries, ({ frame }) => frame),
    offsetsBytes: Uint32Array.from(entries, ({ offsetBytes }) => offsetBytes),
    lengthsBytes: Uint32Array.from(entries, ({ lengthBytes }) => lengthBytes),
  };
}

for (const type of ["pack", "mapPack"] as const) {
  test(`check pack: takes a ${type} for sound only as it was written`, () => {
    assert.equal(isPackSound(createPack(type), testKeys), true);
    const wrongs: Record<string, (pack: PackToCheck) => Partial<PackToCheck>> = {
      name: () => ({ sha256: random.bytes(32) }),
      "type of its keys": () => ({ type: type === "pack" ? "mapPack" : "pack" }),
      salt: () => ({ salt: random.bytes(32) }),
      "an id": ({ ids }) => ({ ids: ids.with(30, (ids[30] ?? 0) ^ 1) }),
      "a place": ({ offsetsBytes }) => ({ offsetsBytes: offsetsBytes.with(1, 1) }),
      "a length": ({ lengthsBytes }) => ({ lengthsBytes: lengthsBytes.with(3, 2 * blockBytes) }),
      "a frame's length": ({ sealedBytes }) => ({ sealedBytes: sealedBytes.with(0, 40) }),
      "a frame past the end": ({ sealedBytes }) => ({ sealedBytes: sealedBytes.with(1, 2 ** 31) }),
      "a block of no frame": ({ frames }) => ({ frames: frames.with(3, 2) }),
    };
    for (const [what, change] of Object.entries(wrongs)) {
      const pack = createPack(type);
      assert.equal(isPackSound({ ...pack, ...change(pack) }, testKeys), false, what);
    }
    const flipped = createPack(type);
    const bytes = new Uint8Array(flipped.buffer);
    bytes[200] = (bytes[200] ?? 0) ^ 1;
    assert.equal(isPackSound({ ...flipped, sha256: computeName(bytes) }, testKeys), false, "a bit");
  });
}
