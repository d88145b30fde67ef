/**
 * The chain of dirty bitmaps on a disk: each records what changed from one instant to the next, and
 * its name says which instant. Pure; the rules are those of docs/design/fleecing.md.
 */
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";

/** As fine as the layers of snapshots. */
export const BITMAP_GRANULARITY_BYTES = 4096;
/** More than this and those that are nobody's base are merged: each takes 32 MiB of QEMU for each TiB. */
export const BITMAPS_MAX = 8;

/** The bitmap that several are merged into to be read; it is no part of the chain. */
export const unionName = "kluis-union";

/** One bitmap of ours. */
export interface ChainBitmap {
  readonly name: string;
  readonly sequence: number;
  /** The instant from which on it records. */
  readonly snapshotId: string;
  /** Size of the disk at that instant. */
  readonly sizeBytes: number;
  readonly isRecording: boolean;
  /** Why it is not to be trusted. */
  readonly fault?: string;
}

/** The bitmaps whose union is what changed since a base, or why there are none. */
export type UnionPlan =
  | { readonly known: true; readonly names: readonly string[]; readonly baseBytes: number }
  | { readonly known: false; readonly reason: string };

/** A step that makes a chain shorter: `name` goes, after it was merged into `into` where that is there. */
export interface ChainCut {
  readonly name: string;
  readonly into?: string;
}

/** The name of a bitmap. */
export function bitmapName(bitmap: {
  readonly sequence: number;
  readonly snapshotId: string;
  readonly sizeBytes: number;
}): string {
  return `kluis:${String(bitmap.sequence)}:${bitmap.snapshotId}:${String(bitmap.sizeBytes)}`;
}

/** Our bitmaps among those that QEMU names for a node (`dirty-bitmaps`), oldest first. */
export function parseChain(listed: unknown): readonly ChainBitmap[] {
  if (!Array.isArray(listed)) return [];
  const chain = listed.filter(isObject).flatMap((entry: JsonObject): ChainBitmap[] => {
    const name = String(entry["name"]);
    const match = /^kluis:(\d{1,12}):([a-z0-9-]{1,64}):(\d{1,16})$/.exec(name);
    if (match === null) return [];
    const [, sequence, snapshotId = "", sizeBytes] = match;
    const fault = findFault(entry);
    return [
      {
        name,
        sequence: Number(sequence),
        snapshotId,
        sizeBytes: Number(sizeBytes),
        isRecording: entry["recording"] === true,
        ...(fault === undefined ? {} : { fault }),
      },
    ];
  });
  return chain.sort((a, b) => a.sequence - b.sequence);
}

function findFault(entry: JsonObject): string | undefined {
  if (entry["inconsistent"] === true) return "is inconsistent";
  if (entry["busy"] === true) return "is used by another program";
  if (entry["granularity"] !== BITMAP_GRANULARITY_BYTES) return "is of another granularity";
  return undefined;
}

/**
 * What changed between the base and the instant `snapshotId`, whose own bitmap is in the chain.
 *
 * @param chain As it was just before the instant, and the bitmap of the instant.
 * @param sizeBytes Of the disk at the instant.
 */
export function planUnion(
  chain: readonly ChainBitmap[],
  ids: { readonly baseId: string; readonly snapshotId: string },
  sizeBytes: number,
): UnionPlan {
  const from = chain.findIndex((bitmap) => bitmap.snapshotId === ids.baseId);
  const to = chain.findIndex((bitmap) => bitmap.snapshotId === ids.snapshotId);
  const base = chain[from];
  if (base === undefined || to < 0) {
    const why = "the VM was stopped or moved since, or that point was made otherwise";
    return unknown(`QEMU has no bitmap of snapshot "${ids.baseId}": ${why}`);
  }
  if (from >= to) return unknown(`snapshot "${ids.baseId}" is not older`);
  const used = chain.slice(from, to);
  const faulty = used.find(({ fault }) => fault !== undefined);
  if (faulty !== undefined) return unknown(`bitmap "${faulty.name}" ${faulty.fault ?? ""}`);
  if (used.at(-1)?.isRecording !== true) {
    return unknown(`bitmap "${used.at(-1)?.name ?? ""}" did not record: somebody has stopped it`);
  }
  if (base.sizeBytes > sizeBytes) return unknown("the disk has become smaller");
  return { known: true, names: used.map(({ name }) => name), baseBytes: base.sizeBytes };
}

/**
 * How a chain becomes as short as its bases allow: what lies before the oldest base goes, what is
 * nobody's base is merged into the one before it. The newest stays, and at most {@link BITMAPS_MAX}
 * in all: the oldest bases are given up for that. Cuts are done in order.
 */
export function planCuts(
  chain: readonly ChainBitmap[],
  baseIds: ReadonlySet<string>,
): readonly ChainCut[] {
  const older = chain.slice(0, -1);
  const bases = older.filter(({ snapshotId }) => baseIds.has(snapshotId));
  const kept = new Set(bases.slice(-(BITMAPS_MAX - 1)));
  const cuts: ChainCut[] = [];
  let into: string | undefined;
  for (const bitmap of older) {
    if (kept.has(bitmap)) into = bitmap.name;
    else cuts.push({ name: bitmap.name, ...(into === undefined ? {} : { into }) });
  }
  return cuts;
}

function unknown(reason: string): UnionPlan {
  return { known: false, reason };
}
