/** The disks that the writers of these tests back up: the same for every process that asks. */
import { MemoryDisk } from "#testing/memory-disk.ts";
import { SeededRandom } from "#testing/seeded-random.ts";

const mib = 1024 * 1024;

/**
 * A writer's disk at each round, from the first: what all writers share, what this one has alone,
 * and what it changes from round to round.
 */
export function* disksOf(seed: string, writer: string): Generator<MemoryDisk> {
  const disk = new MemoryDisk(12 * mib);
  disk.write(0, new SeededRandom(`${seed} shared`).bytes(4 * mib));
  const own = new SeededRandom(`${seed} ${writer}`);
  disk.write(8 * mib, own.bytes(mib));
  for (let round = 0; ; round++) {
    yield disk.snapshot();
    // All writers make some of the same changes at the same time.
    const common = new SeededRandom(`${seed} round ${round}`);
    for (const random of [common, own]) {
      for (let pages = 0; pages < 20; pages++) {
        disk.write(random.integer(0, 3000) * 4096, random.bytes(4096));
      }
    }
  }
}
