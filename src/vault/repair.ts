/**
 * Repair: what can be had back without the disks, and exactly what cannot; docs/design/verify-and-heal.md.
 *
 * Index segments are built again from the packs, the inventory says again what is there, and findings
 * say what was proved. The order is that of a writer, so a crash at any point leaves a vault that is
 * no worse, and a second run goes on. No pack and no manifest is ever removed.
 */
import { createHash } from "node:crypto";

import { isKluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { indexSegmentName, parseStoreName, pointName } from "#formats/store-names.ts";
import { writeMissingSegments } from "#vault/copy/write-segments.ts";
import { runSteps } from "#vault/gc/run-steps.ts";
import { listMarks, mendMark } from "#vault/gc/session-protocol.ts";
import { putFindings, readFindings } from "#vault/inventory/findings.ts";
import { putInventoryPart, readInventory, type StoredObject } from "#vault/inventory/inventory.ts";
import { listUnindexed, readFooters } from "#vault/repair/read-footers.ts";
import { Damage } from "#vault/verify/damage.ts";
import { checkStore, isInventoried, type StoreState } from "#vault/verify/store-check.ts";
import { type VerifyOptions, type VerifyReport, verifyVault } from "#vault/verify.ts";

/** What to repair, and with what; all points are looked at. */
export interface RepairOptions extends Omit<VerifyOptions, "points" | "record"> {
  readonly random: RandomSource;
  /** Changes nothing; says what is wrong and what would be done. */
  readonly isDryRun?: boolean;
  /**
   * Whether objects that are missing, recovery points among them, are no longer expected afterwards
   * although a point is lost by that. Objects that no point needs are dropped in any case.
   */
  readonly acceptLoss?: boolean;
}

/** What was done, or would be. */
export interface RepairReport {
  readonly isDryRun: boolean;
  /** Packs that no readable index segment named, and that one names now. */
  readonly packsIndexed: number;
  /** Such packs whose own table cannot be read either. */
  readonly packsUnusable: number;
  /** Index segments that were damaged, and are replaced. */
  readonly segmentsDropped: number;
  /** Damaged objects that the store keeps for their locks; nothing is built on them any more. */
  readonly lockedObjects: readonly string[];
  /** Recovery points whose deletion mark was damaged, and that exist as any other now. */
  readonly pointsKept: number;
  readonly inventoryAdded: number;
  readonly inventoryRemoved: number;
  /** Objects that were found damaged once and are whole now. */
  readonly findingsLifted: number;
  /** Every point and range as it is after the repair. */
  readonly verify: VerifyReport;
}

/** Repairs a vault; see the file's head. Errors: those of the store and of {@link verifyVault}. */
export async function repairVault(options: RepairOptions): Promise<RepairReport> {
  const { vault, isDryRun = false } = options;
  vault.locator.expectMore();
  await vault.locator.refresh();
  const index = await rebuildIndex(options);
  const segments = await dropSegments(options, index.packsUnusable === 0);
  const pointsKept = await mendMarks(options);
  const before = await readFindings(placeOf(options));
  const verify = await verifyVault({ ...options, record: !isDryRun });
  const inventory = await repairInventory(options, verify);
  // What does not open although it hashes to its name is found whole by nothing less.
  const lifted = verify.depth === "full" ? findWhole(before.damaged, verify) : [];
  if (!isDryRun && lifted.length > 0) await putFindings(options, { sound: lifted });
  return {
    isDryRun,
    ...index,
    ...segments,
    lockedObjects: [...segments.lockedObjects, ...(await findLocked(options, verify))],
    pointsKept,
    ...inventory,
    findingsLifted: lifted.length,
    verify,
  };
}

/** Puts index segments for packs that none names. What was removed on purpose stays out. */
async function rebuildIndex(
  options: RepairOptions,
): Promise<Pick<RepairReport, "packsIndexed" | "packsUnusable">> {
  const { store, keys, random, vault, signal, isDryRun = false } = options;
  const source = { store, keys, index: vault.index, signal };
  const { inventory } = await checkStore(placeOf(options), new Damage());
  const unindexed = await listUnindexed(source);
  const names = unindexed.filter((name) => !inventory.removed.has(name));
  let packsUnusable = 0;
  const packs = readFooters(source, names, () => packsUnusable++);
  if (isDryRun) {
    let packsIndexed = 0;
    for await (const _ of packs) packsIndexed++;
    return { packsIndexed, packsUnusable };
  }
  // First the inventory, as a writer does: others may build on what a segment names.
  const added: StoredObject[] = [];
  for (const name of names) {
    const info = inventory.expected.has(name) ? undefined : await store.stat(name, signal);
    if (info !== undefined) added.push(info);
  }
  await putInventoryPart({ store, keys, signal }, { added });
  await writeMissingSegments({ store, keys, random, index: vault.index, signal }, packs);
  return { packsIndexed: names.length - packsUnusable, packsUnusable };
}

/**
 * Removes segments that are damaged, once all that they may have named is named by others. What is locked
 * stays, and counts as removed; a later repair removes it.
 */
async function dropSegments(
  options: RepairOptions,
  isComplete: boolean,
): Promise<Pick<RepairReport, "segmentsDropped" | "lockedObjects">> {
  const { store, keys, vault, signal, isDryRun = false } = options;
  const lost = vault.index.lost.filter(({ error }) => error.code === "ObjectCorrupt");
  const names = lost.map(({ name }) => indexSegmentName(name));
  if (!isComplete || names.length === 0) return { segmentsDropped: 0, lockedObjects: [] };
  const before = await readInventory(placeOf(options));
  const removed = names.filter((name) => !before.removed.has(name));
  const lockedObjects: string[] = [];
  if (isDryRun) return { segmentsDropped: removed.length, lockedObjects };
  await putInventoryPart({ store, keys, signal }, { removed });
  for (const name of names) {
    try {
      await store.remove(name, signal);
    } catch (error) {
      if (!isKluisError(error, "ObjectLocked")) throw error;
      lockedObjects.push(name);
    }
  }
  return { segmentsDropped: removed.length, lockedObjects };
}

/**
 * What no mark deletes for certain is kept, or is there to be deleted again; how many points that were.
 * Errors: Busy (backoff) while a collection is at work, those of the store.
 */
async function mendMarks(options: RepairOptions): Promise<number> {
  const { damaged } = await runSteps(listMarks(), options);
  if (options.isDryRun === true) return damaged.length;
  let kept = 0;
  for (const mark of damaged) if (await runSteps(mendMark(mark, "keep"), options)) kept++;
  return kept;
}

/** Objects that a check has proved damaged and that nobody can remove yet. */
async function findLocked(
  { store: { locks }, signal }: RepairOptions,
  { badObjects }: VerifyReport,
): Promise<readonly string[]> {
  if (locks === undefined) return [];
  const nowMs = await locks.nowMs(signal);
  const locked: string[] = [];
  for (const { name, verdict } of badObjects) {
    const isVaults = parseStoreName(name) !== undefined;
    if (verdict !== "damaged" || !isVaults) continue;
    if (!(await locks.endsBefore(name, nowMs, signal))) locked.push(name);
  }
  return locked;
}

/** Makes the inventory say what is there; what is missing and needed stays expected. */
async function repairInventory(
  options: RepairOptions,
  verify: VerifyReport,
): Promise<Pick<RepairReport, "inventoryAdded" | "inventoryRemoved">> {
  const { store, keys, signal, isDryRun = false } = options;
  const damage = new Damage();
  const state = await checkStore(placeOf(options), damage);
  const added = await describeUnnamed(options, state, verify);
  const removed = missingOf(state).filter((name) => isDroppable(name, options, verify));
  const { bad, missing } = state.inventory.content;
  const gone = bad.filter(({ error }) => error.code === "ObjectCorrupt");
  const replaced = [...missing, ...gone.map(({ name }) => name.slice(-64))];
  const isNothing = added.length + removed.length + replaced.length === 0;
  if (!isDryRun && !isNothing) {
    await putInventoryPart({ store, keys, signal }, { added, removed, replaced });
    for (const { name } of gone) await store.remove(name, signal);
  }
  return { inventoryAdded: added.length, inventoryRemoved: removed.length };
}

/** Objects that the inventory does not name; of manifests only those that could be read. */
async function describeUnnamed(
  { store, signal }: RepairOptions,
  state: StoreState,
  verify: VerifyReport,
): Promise<readonly StoredObject[]> {
  const readable = new Set(
    verify.points
      .filter(({ manifest }) => manifest !== undefined)
      .map(({ name }) => pointName(name.item, name.pointId)),
  );
  const added: StoredObject[] = [];
  for (const name of state.unnamed) {
    const sizeBytes = state.listed.get(name);
    if (sizeBytes === undefined) continue;
    if (parseStoreName(name)?.kind !== "manifest") added.push({ name, sizeBytes });
    else if (readable.has(name)) {
      const bytes = await store.get(name, undefined, signal);
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      added.push({ name, sizeBytes: bytes.byteLength, sha256 });
    }
  }
  return added;
}

function missingOf(state: StoreState): readonly string[] {
  return [...state.inventory.expected.keys()].filter((name) => {
    return isInventoried(name) && !state.listed.has(name) && !state.resized.has(name);
  });
}

/** A segment is rebuilt by now; a pack is not needed where every point is whole without it. */
function isDroppable(name: string, options: RepairOptions, verify: VerifyReport): boolean {
  if (options.acceptLoss === true) return true;
  const kind = parseStoreName(name)?.kind;
  if (kind === "manifest") return false;
  return kind === "index-segment" || verify.points.every(({ verdict }) => verdict === "sound");
}

/** Objects that were noted as damaged and that this check has read as they were put. */
function findWhole(damaged: ReadonlySet<string>, verify: VerifyReport): readonly string[] {
  const bad = new Set(verify.badObjects.map(({ name }) => name));
  if (verify.badObjectsOmitted > 0) return [];
  return [...damaged].filter((name) => !bad.has(name) && verify.readObjects.has(name));
}

function placeOf({ store, keys, signal }: RepairOptions) {
  return { store, keys, vaultId: keys.vaultId, signal };
}
