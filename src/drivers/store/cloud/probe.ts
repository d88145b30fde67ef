/** Tries out whether a cloud store keeps the promises that a vault rests on; internal to this folder. */
import { allEnded } from "#base/all-ended.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { reservedSegment } from "#formats/object-name.ts";
import type { ByteRange, PutOutcome } from "#ports/object-store.ts";
import type { BlobInfo } from "./blob-service.ts";

/** Writers that race for one name. */
export const probeWriters = 8;
/** Races: a store that ignores the condition loses each of them. */
export const probeRounds = 3;

const contentBytes = 64;

/** What a probe uses of a store; names are below `tmp/`. */
export interface ProbedStore {
  readonly location: string;
  put(name: string, content: Uint8Array): Promise<PutOutcome>;
  get(name: string, range?: ByteRange): Promise<Uint8Array>;
  stat(name: string): Promise<BlobInfo | undefined>;
  /** Also removes older versions. */
  remove(name: string): Promise<void>;
}

/**
 * Races writers for one name and compares what the store says and holds; leaves nothing.
 *
 * Errors: StoreUnsuitable (after-change); those of the store.
 */
export async function probeStore(store: ProbedStore, random: RandomSource): Promise<void> {
  for (let round = 0; round < probeRounds; round++) {
    const name = `${reservedSegment}/probe-${toHex(random.bytes(12))}`;
    try {
      await race(store, name, random);
    } finally {
      await store.remove(name);
    }
    if ((await store.stat(name)) !== undefined)
      throw unsuitable(store, "what was removed is still there");
  }
}

async function race(store: ProbedStore, name: string, random: RandomSource): Promise<void> {
  const contents = Array.from({ length: probeWriters }, () => random.bytes(contentBytes));
  const outcomes = await allEnded(contents.map((content) => store.put(name, content)));
  const winners = contents.filter((_, at) => outcomes[at] === "created");
  const [winner] = winners;
  if (winners.length !== 1 || winner === undefined) {
    throw unsuitable(
      store,
      `${winners.length} of ${probeWriters} writers of one name were told that they had created it ` +
        "(If-None-Match is not honoured; some stores ignore it where versioning or object lock is on)",
    );
  }
  if ((await store.put(name, random.bytes(contentBytes))) !== "exists") {
    throw unsuitable(store, "it overwrote an object that was there");
  }
  if (!bytesEqual(await store.get(name), winner)) {
    throw unsuitable(store, "it holds other bytes than those of the writer that it told so");
  }
  const info = await store.stat(name);
  if (info?.sizeBytes !== contentBytes || info.putId === undefined) {
    throw unsuitable(store, "it does not keep the size and the metadata of an object");
  }
  const range = { offsetBytes: 7, lengthBytes: 11 };
  if (!bytesEqual(await store.get(name, range), winner.subarray(7, 18))) {
    throw unsuitable(store, "it answers a read of a range with other bytes");
  }
}

function unsuitable(store: ProbedStore, reason: string): KluisError {
  return new KluisError("StoreUnsuitable", `Cannot keep a vault in "${store.location}": ${reason}`);
}
