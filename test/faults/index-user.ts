/**
 * A process that opens the index of a made-up vault on a cache folder, checks every id, and closes
 * it, again and again, for the tests of this folder.
 *
 *   node index-user.ts FOLDER TEMPORARY ROUNDS SEED DAMAGE
 *
 * With DAMAGE above 0 it changes that many cache files in each round. Prints `round` after each,
 * and at the end its statistics as JSON.
 */
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { assert } from "#base/assert.ts";
import { idBytes } from "#formats/geometry.ts";
import { SeededRandom } from "#testing/seeded-random.ts";
import { syntheticIds, syntheticKey, syntheticSegment } from "#testing/synthetic-index.ts";
import { type BlockIndex, openIndex } from "#vault/index/block-index.ts";

/** Segments of the vault, and entries of each. */
const segments = 12;
const segmentEntries = 12_000;
const key = syntheticKey("index user");

const names = Array.from({ length: segments }, (_, at) => new Uint8Array(32).fill(at + 1));

function open(folder: string, temporary: string): Promise<BlockIndex> {
  return openIndex({
    segmentNames: names,
    readSegment: (name) => {
      const first = ((name[0] ?? 0) - 1) * segmentEntries;
      return Promise.resolve(syntheticSegment(key, first, segmentEntries).packs);
    },
    cacheDirectory: folder,
    temporaryDirectory: temporary,
  });
}

async function checkAll(index: BlockIndex): Promise<void> {
  const ids = syntheticIds(key, 0, segments * segmentEntries);
  for (let at = 0; at < segments * segmentEntries; at += 7) {
    const id = ids.subarray(at * idBytes, (at + 1) * idBytes);
    const place = await index.locate(id);
    assert(
      place?.frame === Math.floor(((at % segmentEntries) % 128) / 4),
      "each id is in its place",
    );
    assert(!index.has(id.with(20, (id[20] ?? 0) ^ 1)), "no other id is there");
  }
}

/** Cuts, removes or changes a file; whatever another process does to it at the same time. */
function damage(folder: string, random: SeededRandom): void {
  try {
    const path = join(folder, random.pick(readdirSync(folder)));
    const bytes = readFileSync(path);
    const at = random.integer(0, Math.max(0, bytes.length - 1));
    const kind = random.integer(0, 2);
    if (kind === 0) rmSync(path);
    else if (kind === 1) truncateSync(path, at);
    else
      writeFileSync(path, bytes.fill(random.integer(0, 255), at, Math.min(at + 100, bytes.length)));
  } catch (error) {
    assert((error as NodeJS.ErrnoException).code === "ENOENT", String(error));
  }
}

const [folder = "", temporary = "", rounds, seed = "", damages] = process.argv.slice(2);
const random = new SeededRandom(seed);
let statistics: BlockIndex["statistics"] | undefined;
for (let round = 0; round < Number(rounds); round++) {
  const index = await open(folder, temporary);
  for (let count = 0; count < Number(damages); count++) damage(folder, random);
  await checkAll(index);
  statistics = index.statistics;
  await index.close();
  console.log("round");
}
console.log(JSON.stringify(statistics));
