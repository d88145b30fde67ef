/** Gives what recovery points need a longer lock before its lock ends; docs/adr/0009-immutability.md. */
import { toHex } from "#base/bytes.ts";
import { forEachBounded } from "#base/for-each-bounded.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { lockEndOf } from "#formats/lock-policy.ts";
import {
  indexPrefix,
  indexSegmentName,
  keyRecordName,
  mapPackName,
  mapPackPrefix,
  packName,
  packPrefix,
  pointPrefix,
  slotName,
  vaultHeaderName,
} from "#formats/store-names.ts";
import type { ObjectLocks } from "#ports/object-store.ts";
import { Marker, type MarkerDeps } from "#vault/gc/marker.ts";
import { readKeyRecords } from "#vault/keys/records.ts";
import { lockRequestsInFlight } from "#vault/limits.ts";
import { isVaultLoss } from "#vault/vault-loss.ts";
import { type PackInUse, planExtensions } from "./plan-extensions.ts";

/** What extending takes. The index must know all segments that are listed. */
export interface ExtendDeps extends MarkerDeps {
  /** Roots of all disks of all recovery points. */
  readonly readRoots: () => Promise<readonly Uint8Array[]>;
  /** Roots of the point that has just been committed and is not acknowledged yet. */
  readonly freshRoots?: readonly Uint8Array[];
}

/** What was done. */
export interface LockExtensions {
  /** Objects that got a longer lock. */
  readonly extended: number;
  /** Whether need could not be told, so that everything got one. */
  readonly isEverything: boolean;
}

/**
 * When this returns, all that any recovery point needs is locked for a period from now at least.
 * Nothing to do, and nothing asked, where the store has no locks.
 *
 * Errors: ObjectNotFound (never) where something that is needed vanished; those of the store.
 */
export async function extendLocks(deps: ExtendDeps): Promise<LockExtensions> {
  const { store, signal } = deps;
  const { locks } = store;
  if (locks === undefined) return { extended: 0, isEverything: false };
  const nowMs = await locks.nowMs(signal);
  const run = { locks, signal, untilMs: lockEndOf(nowMs, locks.policy) };
  const dueMs = nowMs + locks.policy.periodMs;
  // Commits that were cut before their copy was locked.
  for await (const name of locks.unlocked(pointPrefix, signal)) {
    await locks.extend(name, run.untilMs, signal);
  }
  const opening = await filterDue(await listOpening(deps), dueMs, run);
  const listed = await listNames(deps);
  await assertAllThere(deps, new Set(listed));
  const due = await filterDue(listed, dueMs, run);
  const uses = due.size === 0 ? [] : await findUses(deps);
  const chosen = planExtensions(due, uses);
  await extendAll([...opening], run, { mayVanish: true });
  await extendAll(chosen, run, { mayVanish: uses === undefined });
  return { extended: opening.size + chosen.length, isEverything: uses === undefined };
}

interface Run {
  readonly locks: ObjectLocks;
  readonly untilMs: number;
  readonly signal: AbortSignal | undefined;
}

/** What opens the vault: the header, the newest key record with its copy, the slots that it lists. */
async function listOpening({ store, keys, signal }: ExtendDeps): Promise<readonly string[]> {
  const { vaultId } = keys;
  const { newest } = await readKeyRecords(store, vaultId, signal);
  if (newest === undefined) return [vaultHeaderName];
  const record = { vault: toHex(vaultId), number: newest.number };
  return [
    vaultHeaderName,
    keyRecordName(record),
    keyRecordName(record, { isCopy: true }),
    ...newest.slots.map(({ slot }) => slotName(slot)),
  ];
}

async function listNames({ store, signal }: ExtendDeps): Promise<readonly string[]> {
  const names: string[] = [];
  for (const prefix of [packPrefix, mapPackPrefix, indexPrefix]) {
    for await (const { name } of store.list(prefix, signal)) names.push(name);
  }
  return names;
}

/**
 * Throws ObjectNotFound where the fresh point needs a pack that is gone: whoever wipes leases and
 * records from the control place lets a collection take away what a backup builds on.
 */
async function assertAllThere(deps: ExtendDeps, listed: ReadonlySet<string>): Promise<void> {
  const { freshRoots = [] } = deps;
  const gone: { readonly name: string; readonly first: number; readonly entries: number }[] = [];
  for await (const { head, firstNumber: first, entries } of deps.index.packExtents()) {
    const name = head.type === "pack" ? packName(head.name) : mapPackName(head.name);
    if (!listed.has(name)) gone.push({ name, first, entries });
  }
  if (freshRoots.length === 0 || gone.length === 0) return;
  const marker = new Marker(deps);
  await marker.markMaps(freshRoots);
  const lost = gone.find(({ first, entries }) => marker.count(first, entries) > 0);
  if (lost === undefined) return;
  throw new KluisError(
    "ObjectNotFound",
    `Cannot acknowledge the recovery point: "${lost.name}" was removed while it was written`,
    { details: { object: lost.name } },
  );
}

/** Those whose lock ends before `dueMs`. */
async function filterDue(
  names: readonly string[],
  dueMs: number,
  { locks, signal }: Run,
): Promise<ReadonlySet<string>> {
  const due = new Set<string>();
  await forEachBounded(names, lockRequestsInFlight, async (name) => {
    if (await locks.endsBefore(name, dueMs, signal)) due.add(name);
  });
  return due;
}

/** How much of each pack is needed; `undefined` where damage leaves that open. */
async function findUses(deps: ExtendDeps): Promise<readonly PackInUse[] | undefined> {
  const marker = new Marker(deps);
  try {
    await marker.markMaps(await deps.readRoots());
  } catch (error) {
    if (isVaultLoss(error)) return undefined;
    throw error;
  }
  const uses: PackInUse[] = [];
  for await (const { head, segmentName, firstNumber, entries } of deps.index.packExtents()) {
    const name = head.type === "pack" ? packName(head.name) : mapPackName(head.name);
    const marked = marker.count(firstNumber, entries);
    uses.push({ name, segment: indexSegmentName(segmentName), marked });
  }
  return uses;
}

async function extendAll(
  names: readonly string[],
  { locks, untilMs, signal }: Run,
  { mayVanish }: { readonly mayVanish: boolean },
): Promise<void> {
  await forEachBounded(names, lockRequestsInFlight, async (name) => {
    try {
      await locks.extend(name, untilMs, signal);
    } catch (error) {
      // A key that was removed, garbage that a collection took away.
      if (!mayVanish || !isKluisError(error, "ObjectNotFound")) throw error;
    }
  });
}
