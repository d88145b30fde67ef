/** The role of a vault's store: its own, or a secondary; docs/design/redundancy.md. */
import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import {
  encodeSecondaryMarker,
  parseSecondaryMarker,
  type SecondaryMarker,
  secondaryMarkerBytesMax,
} from "#formats/secondary-marker.ts";
import { secondaryMarkerName, vaultHeaderName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { assertPlaceIsFree } from "#vault/vault-files.ts";

/** Throws StoreIsSecondary (after-change) where the vault follows another store. */
export async function assertNotSecondary(store: ObjectStore, signal?: AbortSignal): Promise<void> {
  if ((await store.stat(secondaryMarkerName, signal)) === undefined) return;
  throw new KluisError(
    "StoreIsSecondary",
    `Cannot change the vault in "${store.location}": it is a secondary`,
  );
}

/**
 * Makes an empty place a secondary or an unfinished copy of the vault, or finds that it is one; durable
 * on return.
 *
 * Errors: StoreNotEmpty (after-change) where something else of a vault is there, StoreForeign
 * (after-change), StoreUnsuitable (after-change), ObjectCorrupt (never) for a damaged marker; those
 * of the store.
 */
export async function claimSecondary(
  store: ObjectStore,
  marker: SecondaryMarker,
  signal?: AbortSignal,
): Promise<void> {
  let there = await readMarker(store, signal);
  if (there === undefined) {
    await assertPlaceIsFree(store, signal);
    await store.probe(signal);
    const outcome = await store.put(secondaryMarkerName, [encodeSecondaryMarker(marker)], signal);
    if (outcome === "created") return;
    there = await readMarker(store, signal);
  }
  const isOurs = there !== undefined && bytesEqual(there.vaultId, marker.vaultId);
  if (isOurs && there?.role === marker.role) return;
  const what =
    there === undefined ? "another vault" : `a ${there.role} of ${isOurs ? "it" : "another one"}`;
  throw new KluisError(
    "StoreNotEmpty",
    `Cannot copy a vault to "${store.location}": it holds ${what}`,
  );
}

/** Whether the store is marked as the secondary of that vault. ObjectCorrupt (never). */
export async function isSecondaryOf(
  store: ObjectStore,
  vaultId: Uint8Array,
  signal?: AbortSignal,
): Promise<boolean> {
  const marker = await readMarker(store, signal);
  return marker?.role === "secondary" && bytesEqual(marker.vaultId, vaultId);
}

/**
 * Makes a secondary a vault of its own; durable on return. Nothing may replicate to it meanwhile or
 * afterwards. ArgumentInvalid (after-change) where it is no secondary.
 */
export async function releaseSecondary(store: ObjectStore, signal?: AbortSignal): Promise<void> {
  if ((await store.stat(secondaryMarkerName, signal)) === undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot promote the vault in "${store.location}": it is no secondary`,
    );
  }
  await store.remove(secondaryMarkerName, signal);
}

/**
 * Puts `vault.json` of the primary; what it says is durable on return. StoreNotEmpty (after-change)
 * where that of another vault is there.
 */
export async function putVaultHeader(
  store: ObjectStore,
  header: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const info = await store.stat(vaultHeaderName, signal);
  const outcome =
    info === undefined ? await store.put(vaultHeaderName, [header], signal) : "exists";
  if (outcome === "created") return;
  if (bytesEqual(await store.get(vaultHeaderName, undefined, signal), header)) return;
  throw new KluisError(
    "StoreNotEmpty",
    `Cannot copy a vault to "${store.location}": its vault.json is another one`,
  );
}

async function readMarker(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<SecondaryMarker | undefined> {
  const info = await store.stat(secondaryMarkerName, signal);
  if (info === undefined) return undefined;
  const lengthBytes = Math.min(info.sizeBytes, secondaryMarkerBytesMax + 1);
  try {
    const bytes = await store.get(secondaryMarkerName, { offsetBytes: 0, lengthBytes }, signal);
    return parseSecondaryMarker(bytes);
  } catch (error) {
    if (isKluisError(error, "ObjectNotFound")) return undefined;
    throw error;
  }
}
