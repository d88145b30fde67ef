// Goal: a block in a distrusted pack is absent for dedup, found for reading only where no other pack
// has it, in one that cannot be read only where no condemned one has it, and all of this holds for segments that come later and ends with the next set.
// Method: random packs that share ids, in several segments; a plain model of who has what.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import { type IndexPack, type IndexPackColumns, toIndexColumns } from "#formats/index-segment.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { type BlockIndex, openIndex } from "./block-index.ts";

const sealedBytes = 200;

function createPack(random: SeededRandom, ids: readonly Uint8Array[]): IndexPack {
  return {
    type: "pack",
    name: random.bytes(32),
    salt: random.bytes(32),
    epoch: 1,
    frames: [{ sealedBytes, plainBytes: 5000, codec: "zstd" }],
    entries: ids.map((id, at) => ({ id, frame: 0, offsetBytes: at, lengthBytes: 1 })),
  };
}

async function assertAgrees(
  index: BlockIndex,
  world: {
    readonly ids: readonly Uint8Array[];
    readonly packs: readonly IndexPack[];
    readonly distrusted: ReadonlySet<IndexPack>;
    /** Those of them that cannot be read. */
    readonly defective: ReadonlySet<IndexPack>;
  },
): Promise<void> {
  for (const id of world.ids) {
    const holders = world.packs.filter(({ entries }) => entries.some((entry) => entry.id === id));
    const trusted = holders.filter((pack) => !world.distrusted.has(pack));
    assert.equal(index.has(id), trusted.length > 0);
    const readable = holders.filter((pack) => !world.defective.has(pack));
    const best = [trusted, readable, holders].find((some) => some.length > 0) ?? [];
    const wanted = best.map(({ name }) => toHex(name));
    const found = await index.locate(id);
    if (wanted.length === 0) assert.equal(found, undefined);
    else assert.ok(found !== undefined && wanted.includes(toHex(found.pack.name)));
  }
}

test("distrusted packs: count as absent wherever another copy is not", async () => {
  const random = createSeededRandom("distrusted packs");
  const segments = new Map<string, readonly IndexPackColumns[]>();
  const readSegment = (name: Uint8Array): Promise<IndexPackColumns[]> =>
    Promise.resolve([...present(segments.get(toHex(name)), "a segment")]);
  await using index = await openIndex({ segmentNames: [], readSegment });
  const ids = Array.from({ length: 40 }, () => random.bytes(idBytes));
  const packs: IndexPack[] = [];
  let distrusted = new Set<IndexPack>();
  let defective = new Set<IndexPack>();
  for (let round = 0; round < 60; round++) {
    const added = Array.from({ length: random.integer(1, 3) }, () =>
      createPack(
        random,
        ids.filter(() => random.chance(0.1)),
      ),
    );
    const name = random.bytes(32);
    // What is distrusted already may be named again by a segment that comes later.
    const repeated = [...distrusted].filter(() => random.chance(0.2));
    const all = [...added, ...repeated];
    packs.push(...added);
    if (random.chance(0.5)) await index.addSegment(name, all);
    else {
      segments.set(toHex(name), all.map(toIndexColumns));
      await index.refresh([name]);
    }
    if (random.chance(0.4)) {
      distrusted = new Set(packs.filter(() => random.chance(0.5)));
      // Both reasons count, together and alone.
      const names = [...distrusted].map((pack) => pack.name);
      const cut = random.integer(0, names.length);
      defective = new Set([...distrusted].slice(0, cut));
      await index.setDistrusted("defect", names.slice(0, cut));
      await index.setDistrusted("condemned", names.slice(cut));
    }
    await assertAgrees(index, { ids, packs, distrusted, defective });
  }
  await index.setDistrusted("defect", []);
  await index.setDistrusted("condemned", []);
  await assertAgrees(index, { ids, packs, distrusted: new Set(), defective: new Set() });
  let extents = 0;
  for await (const { head, entries, contentEndBytes } of index.packExtents()) {
    const pack = packs.find((one) => toHex(one.name) === toHex(head.name));
    assert.equal(entries, pack?.entries.length);
    assert.equal(contentEndBytes, containerHeaderBytes + sealedBytes);
    extents++;
  }
  assert.ok(extents >= packs.length);
});

test("distrusted packs: of calls that overlap the last one counts", async () => {
  const random = createSeededRandom("overlapping calls");
  const id = random.bytes(idBytes);
  const pack = createPack(random, [id]);
  const readSegment = (): Promise<IndexPackColumns[]> => Promise.resolve([toIndexColumns(pack)]);
  await using index = await openIndex({ segmentNames: [random.bytes(32)], readSegment });
  await Promise.all([
    index.setDistrusted("condemned", [pack.name]),
    index.setDistrusted("condemned", []),
  ]);
  assert.equal(index.has(id), true);
  await Promise.all([
    index.setDistrusted("condemned", []),
    index.setDistrusted("unread", [pack.name]),
    index.setDistrusted("defect", []),
  ]);
  assert.equal(index.has(id), false);
});

test("distrusted packs: what comes in after a listing counts once it is listed, and is not retired by it", async () => {
  const random = createSeededRandom("late segments");
  const ids = [0, 1, 2].map(() => random.bytes(idBytes));
  const names = ids.map(() => random.bytes(32));
  const packs = ids.map((id) => createPack(random, [id]));
  const readSegment = (name: Uint8Array): Promise<IndexPackColumns[]> =>
    Promise.resolve([toIndexColumns(present(packs[names.indexOf(name)], "a pack"))]);
  const [early, listed, late] = names as [Uint8Array, Uint8Array, Uint8Array];
  await using index = await openIndex({ segmentNames: [early], readSegment });
  const found = (): boolean[] => ids.map((id) => index.has(id));
  index.trustUntilNow();
  const before = index.segmentCount;
  await index.refresh([listed, late]);
  assert.deepEqual(found(), [true, false, false]);
  assert.equal(index.retire([listed], before), 1);
  index.trustListed([listed]);
  assert.deepEqual(found(), [false, true, false]);
  for (const id of ids.slice(1)) assert.ok(await index.locate(id));
});
