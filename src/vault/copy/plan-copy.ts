/**
 * What one store lacks of a vault in another one; docs/design/redundancy.md.
 *
 * By names and sizes alone, which takes about 200 bytes of memory for each object of both stores:
 * packs of 32 MiB, so some 13 MB for a vault of 2 TB.
 */
import { tombstoneBytes } from "#formats/control-record.ts";
import {
  deletedPrefix,
  indexPrefix,
  keyRecordPrefix,
  mapPackPrefix,
  packPrefix,
  parseStoreName,
  pointIdTimeMs,
  pointPrefix,
  slotPrefix,
  type StoreName,
} from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import type { ReplicationLag } from "#vault/copy-report.ts";
import { isTombstone, runSteps, type StepDeps } from "#vault/gc/run-steps.ts";
import { listMarks } from "#vault/gc/session-protocol.ts";

/** Steps of a copy, in the order in which objects are put. */
export const copySteps = ["keys", "data", "index", "points"] as const;
/** A step of a copy. */
export type CopyStep = (typeof copySteps)[number];

/** The objects of a vault that a copy consists of, but for `vault.json`. */
export type CopyListing = Readonly<Record<CopyStep, readonly ObjectInfo[]>>;

const prefixes: Readonly<Record<CopyStep, readonly string[]>> = {
  // Records before slots: those that a record lists are listed after it.
  keys: [keyRecordPrefix, slotPrefix],
  data: [packPrefix, mapPackPrefix],
  index: [indexPrefix],
  points: [pointPrefix],
};

const stepKinds: Readonly<Partial<Record<StoreName["kind"], CopyStep>>> = {
  slot: "keys",
  "key-record": "keys",
  pack: "data",
  "map-pack": "data",
  "index-segment": "index",
  manifest: "points",
};

/** An object that both stores hold in different lengths: one of them is damaged. */
export interface DifferingObject {
  readonly name: string;
  readonly primaryBytes: number;
  readonly secondaryBytes: number;
}

/** What there is to copy. */
export interface CopyPlan {
  /** What is to be put, by step. */
  readonly missing: CopyListing;
  /** Of all that is missing. */
  readonly missingBytes: number;
  readonly differing: readonly DifferingObject[];
}

/** Whether an object under `points/` is no point that exists; docs/design/gc-and-locking.md. */
export type IsHidden = (manifest: ObjectInfo) => boolean | Promise<boolean>;

/**
 * Tells, by names and sizes, points that were deleted and backups that were given up: whoever can write to the
 * store can make it lie. Call it before the listing that it is for.
 */
export async function readHiddenNames(store: ObjectStore, signal?: AbortSignal): Promise<IsHidden> {
  const deleted = new Set<string>();
  for await (const { name } of store.list(deletedPrefix, signal)) {
    deleted.add(`${pointPrefix}${name.slice(deletedPrefix.length)}`);
  }
  return ({ name, sizeBytes }) => sizeBytes === tombstoneBytes || deleted.has(name);
}

/** {@link readHiddenNames}, where only what opens with the vault's keys counts. */
export async function readHidden(deps: StepDeps): Promise<IsHidden> {
  const { deleted } = await runSteps(listMarks(), deps);
  return async (info) => deleted.has(info.name) || (await isTombstone(info, deps));
}

/**
 * Lists what a copy consists of in the order that makes the copy safe: what is put last is listed
 * first, so that all that it rests on is in the listing too, or was removed meanwhile.
 */
export async function listForCopy(
  store: ObjectStore,
  isHidden: IsHidden,
  signal?: AbortSignal,
): Promise<CopyListing> {
  const listing: Record<CopyStep, ObjectInfo[]> = { keys: [], data: [], index: [], points: [] };
  for (const step of copySteps.toReversed()) {
    for (const prefix of prefixes[step]) {
      for await (const info of store.list(prefix, signal)) {
        const kind = parseStoreName(info.name)?.kind;
        if (kind === undefined || stepKinds[kind] !== step) continue;
        if (kind === "manifest" && (await isHidden(info))) continue;
        listing[step].push(info);
      }
    }
  }
  return listing;
}

/** Compares two listings; manifests come in the order of their instants. */
export function planCopy(primary: CopyListing, secondary: CopyListing): CopyPlan {
  const missing: Record<CopyStep, ObjectInfo[]> = { keys: [], data: [], index: [], points: [] };
  const differing: DifferingObject[] = [];
  let missingBytes = 0;
  for (const step of copySteps) {
    const sizes = new Map(secondary[step].map(({ name, sizeBytes }) => [name, sizeBytes]));
    for (const info of primary[step]) {
      const secondaryBytes = sizes.get(info.name);
      if (secondaryBytes === undefined) {
        missing[step].push(info);
        missingBytes += info.sizeBytes;
      } else if (secondaryBytes !== info.sizeBytes) {
        differing.push({ name: info.name, primaryBytes: info.sizeBytes, secondaryBytes });
      }
    }
  }
  missing.points.sort((a, b) => pointOf(a).localeCompare(pointOf(b), "en"));
  return { missing, missingBytes, differing };
}

/** The lag that a listing shows. `objects` are those that are not in the secondary. */
export function lagOf(objects: readonly ObjectInfo[], measuredAtMs: number): ReplicationLag {
  let bytes = 0;
  let points = 0;
  let oldestMs = measuredAtMs;
  for (const { name, sizeBytes } of objects) {
    bytes += sizeBytes;
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "manifest") continue;
    points++;
    oldestMs = Math.min(oldestMs, pointIdTimeMs(parsed.point));
  }
  return { points, objects: objects.length, bytes, ageMs: measuredAtMs - oldestMs, measuredAtMs };
}

/** The last part of a name: of a manifest its id, which sorts by instant. */
function pointOf({ name }: ObjectInfo): string {
  return name.slice(name.lastIndexOf("/") + 1);
}
