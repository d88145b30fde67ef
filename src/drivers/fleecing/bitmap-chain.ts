/**
 * The chain of dirty bitmaps on a disk: each records what changed from one instant to the next, and
 * its name says which instant. Pure; the rules are those of docs/design/fleecing.md.
 */
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";

/** As fine as the layers of snapshots. */
export const BITMAP_GRANULARITY_BYTES = 4096;
/** With so many those that are nobody's base are merged: each takes 32 MiB of QEMU for each TiB. */
export const BITMAPS_MAX = 8;

/** More than this are never made: somebody has used one for long, and those after it could not be merged. */
export const BITMAPS_STUCK_MAX = 2 * BITMAPS_MAX;

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
  /** What was written before it is not in those before it: it cannot be merged with them. */
  readonly startsChain: boolean;
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

/** What the name of a bitmap says. */
type NamedBitmap = Pick<ChainBitmap, "sequence" | "snapshotId" | "sizeBytes" | "startsChain">;

/** The name of a bitmap. */
export function bitmapName(bitmap: NamedBitmap): string {
  const { sequence, snapshotId, sizeBytes, startsChain } = bitmap;
  const prefix = startsChain ? "kluis-first" : "kluis";
  return `${prefix}:${String(sequence)}:${snapshotId}:${String(sizeBytes)}`;
}

/** Our bitmaps among those that QEMU names for a node (`dirty-bitmaps`), oldest first. */
export function parseChain(listed: unknown): readonly ChainBitmap[] {
  if (!Array.isArray(listed)) return [];
  const chain = listed.filter(isObject).flatMap((entry: JsonObject): ChainBitmap[] => {
    const name = String(entry["name"]);
    const match = /^kluis(-first)?:(\d{1,12}):([a-z0-9-]{1,64}):(\d{1,16})$/.exec(name);
    if (match === null) return [];
    const [, first, sequence, snapshotId = "", sizeBytes] = match;
    const fault = findFault(entry);
    return [
      {
        name,
        sequence: Number(sequence),
        snapshotId,
        sizeBytes: Number(sizeBytes),
        isRecording: entry["recording"] === true,
        startsChain: first !== undefined,
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
 * The bitmap that begins with an instant. It starts a chain of its own where the last one does not say
 * what was written up to it, and where a truncation has cut those before it.
 *
 * @param chain As it is just before the instant.
 */
export function planBitmap(
  chain: readonly ChainBitmap[],
  instant: Pick<ChainBitmap, "snapshotId" | "sizeBytes">,
): ChainBitmap {
  const last = chain.at(-1);
  const goesOn = last?.isRecording === true && last.sizeBytes <= instant.sizeBytes;
  const named = { ...instant, sequence: (last?.sequence ?? 0) + 1, startsChain: !goesOn };
  return { ...named, name: bitmapName(named), isRecording: true };
}

/** Without those that nothing can be merged with any more. */
function newestChain(chain: readonly ChainBitmap[]): readonly ChainBitmap[] {
  const start = chain.findLastIndex(({ startsChain }) => startsChain);
  return chain.slice(Math.max(0, start));
}

/**
 * What changed between the base and the instant `snapshotId`, whose own bitmap is in the chain.
 *
 * @param chain As it was just before the instant, and the bitmap of the instant (see {@link planBitmap}).
 */
export function planUnion(
  chain: readonly ChainBitmap[],
  ids: { readonly baseId: string; readonly snapshotId: string },
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
  const next = chain.slice(from + 1, to + 1).find(({ startsChain }) => startsChain);
  if (next !== undefined) {
    const why = "somebody stopped one, or the disk became smaller";
    return unknown(`the bitmaps begin anew with snapshot "${next.snapshotId}": ${why}`);
  }
  return { known: true, names: used.map(({ name }) => name), baseBytes: base.sizeBytes };
}

/**
 * How a chain becomes as short as its bases allow: what lies before the oldest base goes, what is
 * nobody's base is merged into the one before it. The newest stays where there is a base, which needs
 * what it records, and at most {@link BITMAPS_MAX} in all: the oldest bases are given up for that. Cuts
 * are done in order, up to the first that cannot be done: so what is left says all from its instant on.
 */
export function planCuts(
  chain: readonly ChainBitmap[],
  baseIds: ReadonlySet<string>,
): readonly ChainCut[] {
  const bases = newestChain(chain).filter(({ snapshotId }) => baseIds.has(snapshotId));
  const newest = bases.length === 0 ? [] : chain.slice(-1);
  const older = bases.filter((bitmap) => !newest.includes(bitmap));
  const kept = new Set([...older.slice(-(BITMAPS_MAX - 1)), ...newest]);
  const cuts: ChainCut[] = [];
  let into: string | undefined;
  for (const bitmap of chain) {
    if (kept.has(bitmap)) into = bitmap.name;
    else cuts.push({ name: bitmap.name, ...(into === undefined ? {} : { into }) });
  }
  return cuts;
}

function unknown(reason: string): UnionPlan {
  return { known: false, reason };
}
