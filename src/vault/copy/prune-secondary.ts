/**
 * Takes out of a secondary what its primary has deleted and collected; docs/design/redundancy.md says why
 * that is safe beside replications.
 */
import { KluisError } from "#base/kluis-error.ts";
import { deletedName } from "#formats/store-names.ts";
import type { CopyRunOptions, SecondaryPruning } from "#vault/copy-report.ts";
import { runSteps } from "#vault/gc/run-steps.ts";
import { deletePoint, listMarks } from "#vault/gc/session-protocol.ts";
import { readInventory } from "#vault/inventory/inventory.ts";
import { breakerShare } from "#vault/limits.ts";
import { openVaultOf } from "./open-vault-of.ts";
import { type CopyListing, listForCopy, planCopy, readHidden } from "./plan-copy.ts";

/** What may be pruned. */
export interface PruneLimits {
  /** Whether more than {@link breakerShare} of the points, or of the bytes, may go. */
  readonly allowMassDeletion?: boolean | undefined;
}

/**
 * Deletes the points of the secondary that the primary has deleted, and collects what only those needed, as far as
 * the primary no longer has it either. `undefined` where the primary has something that the secondary lacks: replicate
 * first. Call it after a replication that left nothing.
 *
 * Errors: CollectionRefused (after-change) where more than half would go; Busy (backoff) beside another
 * collection; those of a collection and of the stores.
 */
export async function pruneSecondary(
  options: CopyRunOptions,
  limits: PruneLimits = {},
): Promise<SecondaryPruning | undefined> {
  const { primary, secondary, signal } = options;
  // In this order: what replications bring from now on is none of what may be removed.
  const there = await listForCopy(secondary, () => false, signal);
  const isHidden = await readHidden({ ...options, store: primary });
  const here = await listForCopy(primary, isHidden, signal);
  const { missing, differing } = planCopy(here, there);
  if (missing.data.length + missing.index.length + differing.length > 0) return undefined;
  const { deleted, unexplained } = await findDeleted(options, { here, there });
  if (limits.allowMassDeletion !== true && deleted.length > there.points.length * breakerShare) {
    throw new KluisError(
      "CollectionRefused",
      `Cannot prune the secondary: ${deleted.length} of its ${there.points.length} recovery points would go`,
    );
  }
  const target = { ...options, store: secondary };
  for (const manifest of deleted) await runSteps(deletePoint(manifest), target);
  const removable = new Set(namesOf(there));
  for (const name of namesOf(here)) removable.delete(name);
  await using vault = await openVaultOf(options, secondary);
  const { end, plan } = await vault.collectSecondary(
    { allowMassDeletion: limits.allowMassDeletion, mayRemove: (name) => removable.has(name) },
    signal,
  );
  if (end !== "done" && end !== "nothing-to-do") {
    throw new KluisError("Busy", "Cannot prune the secondary: another collection is at work there");
  }
  const freedBytes = (plan?.garbageBytes ?? 0) + (plan?.repackedBytes ?? 0);
  return { pointsDeleted: deleted.length, pointsUnexplained: unexplained, freedBytes };
}

/**
 * Manifests of the secondary that the primary has not, and has for certain deleted: by a mark that opens, or by its
 * inventory. What is merely gone there was lost, perhaps, and stays.
 */
async function findDeleted(
  options: CopyRunOptions,
  { here, there }: { readonly here: CopyListing; readonly there: CopyListing },
): Promise<{ readonly deleted: readonly string[]; readonly unexplained: number }> {
  const { primary: store, secondary, keys, signal } = options;
  const present = new Set(here.points.map(({ name }) => name));
  const gone = there.points.map(({ name }) => name).filter((name) => !present.has(name));
  if (gone.length === 0) return { deleted: [], unexplained: 0 };
  const marks = await runSteps(listMarks(), { ...options, store });
  const done = await runSteps(listMarks(), { ...options, store: secondary });
  const { removed } = await readInventory({ store, keys, vaultId: keys.vaultId, signal });
  const waiting = gone.filter((name) => !done.deleted.has(name));
  const damaged = new Set(marks.damaged);
  const isDeleted = (name: string): boolean =>
    marks.deleted.has(name) || (removed.has(name) && !damaged.has(deletedName(name)));
  const deleted = waiting.filter(isDeleted);
  return { deleted, unexplained: waiting.length - deleted.length };
}

/** What a collection removes besides manifests. */
function namesOf({ data, index }: CopyListing): readonly string[] {
  return [...data, ...index].map(({ name }) => name);
}
