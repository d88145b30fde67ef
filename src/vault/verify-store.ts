/** Verification without a key: what is missing, cut or changed; docs/design/verify-and-heal.md. */
import type { Clock } from "#base/clock.ts";
import { fromHex } from "#base/bytes.ts";
import { forEachBounded } from "#base/for-each-bounded.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { describeLostSlot } from "#vault/keys/lost-access.ts";
import { listKeySlots } from "#vault/keys/slots.ts";
import { type BadObject, Damage, type Verdict } from "#vault/verify/damage.ts";
import { readChecked } from "#vault/verify/read-object.ts";
import { checkStore, expectedHash } from "#vault/verify/store-check.ts";

/** Objects in memory at once, of at most 64 MiB each. */
const objectsInFlight = 3;

/** What to verify without a key. */
export interface VerifyStoreOptions {
  readonly store: ObjectStore;
  /** 16 bytes, from `vault.json`. */
  readonly vaultId: Uint8Array;
  /** `structure` reads the listing and the inventory, `objects` every object. */
  readonly depth: "structure" | "objects";
  /** What is known to be wrong with objects of the store, by what the host remembers. */
  readonly known?: readonly BadObject[];
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** What was found without a key. */
export interface StoreReport {
  readonly verdict: Verdict;
  readonly objectsListed: number;
  readonly objectsExpected: number;
  /** Objects that no part of the inventory names: of runs under way or broken off. */
  readonly objectsUnnamed: number;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly badObjects: readonly BadObject[];
  readonly badObjectsOmitted: number;
  readonly durationMs: number;
}

/**
 * Verifies a store; what is wrong is in the report. Errors: those of the store where it cannot be
 * listed; Cancelled.
 */
export async function verifyStore(options: VerifyStoreOptions): Promise<StoreReport> {
  const { store, vaultId, clock, signal, depth } = options;
  const startMs = clock.monotonicMs();
  const damage = new Damage();
  for (const object of options.known ?? []) damage.addObject(object);
  // Before the rest, because the first reason counts, and this one says what is lost.
  for (const name of (await listKeySlots(store, vaultId, signal)).damaged) {
    const loss = await describeLostSlot(store, name, signal);
    damage.addObject({ name, verdict: "damaged", reason: `it is no whole key slot: ${loss}` });
  }
  const state = await checkStore({ store, vaultId, keys: undefined, signal }, damage);
  let totals = { objects: 0, bytes: 0 };
  if (depth === "objects") totals = await checkObjects(state, damage, options);
  return {
    verdict: damage.verdict,
    objectsListed: state.listed.size,
    objectsExpected: state.inventory.expected.size,
    objectsUnnamed: state.unnamed.length,
    objectsChecked: totals.objects,
    bytesRead: totals.bytes,
    badObjects: damage.objects,
    badObjectsOmitted: damage.objectsOmitted,
    durationMs: clock.monotonicMs() - startMs,
  };
}

async function checkObjects(
  state: Awaited<ReturnType<typeof checkStore>>,
  damage: Damage,
  options: VerifyStoreOptions,
): Promise<{ objects: number; bytes: number }> {
  const { store, signal } = options;
  const totals = { objects: 0, bytes: 0 };
  let totalBytes = 0;
  for (const sizeBytes of state.listed.values()) totalBytes += sizeBytes;
  const check = async (name: string): Promise<void> => {
    signal?.throwIfAborted();
    const hash = expectedHash(state, name);
    if (hash === undefined) return;
    const read = await readChecked({ store, signal }, name, fromHex(hash) ?? new Uint8Array());
    if (read.kind === "missing" && (await state.wasRemoved(name))) return;
    if (read.verdict !== "sound") {
      damage.addObject({ name, verdict: read.verdict, reason: read.reason });
    }
    totals.objects++;
    totals.bytes += read.bytesRead;
    options.onProgress?.(totals.bytes, Math.max(totals.bytes, totalBytes));
  };
  await forEachBounded([...state.listed.keys()].sort(), objectsInFlight, check);
  return totals;
}
