/** Checks key records; needs no key. */
import { isKluisError } from "#base/kluis-error.ts";
import { keyRecordDamage } from "#formats/key-record.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { readKeyRecords } from "#vault/keys/records.ts";
import { type Damage, verdictOf } from "#vault/verify/damage.ts";

/**
 * Notes every key record among `names` that is not whole or not in its place, and the newest one or its
 * copy where only the other is there. Errors: those of the store that are no object's own.
 */
export async function checkKeyRecords(
  place: {
    readonly store: ObjectStore;
    readonly vaultId: Uint8Array;
    readonly signal?: AbortSignal | undefined;
  },
  names: Iterable<string>,
  damage: Damage,
): Promise<void> {
  const { store, vaultId, signal } = place;
  for (const name of names) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "key-record") continue;
    try {
      const reason = keyRecordDamage(await store.get(name, undefined, signal), parsed);
      if (reason !== undefined) damage.addObject({ name, verdict: "damaged", reason });
    } catch (error) {
      signal?.throwIfAborted();
      if (!isKluisError(error)) throw error;
      damage.addObject({ name, verdict: verdictOf(error), reason: error.message });
    }
  }
  const { missing } = await readKeyRecords(store, vaultId, signal);
  const reason = "the newest key record is there once, not twice";
  for (const name of missing) damage.addObject({ name, verdict: "damaged", reason });
}
