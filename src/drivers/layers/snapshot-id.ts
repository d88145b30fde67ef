/** Ids of snapshots. */
import { toHex } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";

const ID_BYTES = 4;

/** A new id, which begins with the time: `20261122t175118-02adf6cc`. */
export function createSnapshotId(takenAtMs: number): string {
  const time = new Date(takenAtMs).toISOString().slice(0, 19).replace(/[-:]/g, "").toLowerCase();
  return `${time}-${toHex(systemRandom.bytes(ID_BYTES))}`;
}
