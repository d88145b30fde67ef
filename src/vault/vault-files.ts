/**
 * The objects that make a place a vault: its key slots and `vault.json`;
 * docs/design/vault-format.md §2.1 and §3.
 */
import { assert } from "#base/assert.ts";
import { bytesEqual } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { parseStoreName, vaultHeaderName } from "#formats/store-names.ts";
import {
  encodeVaultHeader,
  parseVaultHeader,
  vaultHeaderBytesMax,
  vaultVersion,
  type VaultHeader,
} from "#formats/vault-header.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { createRecoveryKey, type KeySecret } from "#vault/key-secret.ts";
import { createKeyRing, type KeyRing } from "#vault/keys/key-ring.ts";
import {
  addKeySlot,
  listKeySlots,
  openKeyRing,
  putNewSlot,
  type SlotListing,
} from "#vault/keys/slots.ts";
import { deriveVaultKeys, type VaultKeys } from "#vault/keys/vault-keys.ts";

/** How a vault is created. */
export interface CreateVaultOptions {
  /** At least one; two or more are better, so that one can be lost. */
  readonly secrets: readonly KeySecret[];
  readonly random: RandomSource;
  /** Whether a recovery key is made and gets a slot; yes unless said otherwise. */
  readonly withRecoveryKey?: boolean;
  readonly signal?: AbortSignal;
}

/** A vault that has just been created. */
export interface CreatedVault {
  readonly header: VaultHeader;
  readonly keys: VaultKeys;
  /** To be shown to the user once; kept nowhere. */
  readonly recoveryKey: string | undefined;
}

/** A vault whose key has been accepted. */
export interface OpenedVault {
  readonly header: VaultHeader;
  readonly ring: KeyRing;
  readonly keys: VaultKeys;
}

/**
 * Makes an empty place a vault. The slots come first and `vault.json` last, whose put-if-absent is
 * the one commit: after a crash before it the place counts as empty. Of racing calls one succeeds.
 *
 * Errors: StoreNotEmpty (after-change) where a vault or a part of one is there, StoreForeign
 * (after-change) where anything else is, StoreUnsuitable (after-change) where the store cannot
 * commit; those of the store.
 */
export async function createVaultFiles(
  store: ObjectStore,
  options: CreateVaultOptions,
): Promise<CreatedVault> {
  const { random, signal } = options;
  const recovery = options.withRecoveryKey === false ? undefined : createRecoveryKey(random);
  const secrets = [...options.secrets, ...(recovery === undefined ? [] : [recovery.secret])];
  assert(secrets.length > 0, "a vault is created with a key");
  await assertPlaceIsFree(store, signal);
  await store.probe(signal);
  const ring = createKeyRing(random);
  for (const secret of secrets) await putNewSlot(store, ring, secret, options);
  const header: VaultHeader = { version: vaultVersion, vaultId: ring.vaultId };
  const bytes = encodeVaultHeader(header);
  if ((await store.put(vaultHeaderName, [bytes], signal)) === "exists") {
    // Ours all the same where the store lost the answer to an earlier attempt of the same put.
    const present = await store.get(vaultHeaderName, undefined, signal);
    if (!bytesEqual(present, bytes)) throw vaultExists(store);
  }
  return {
    header,
    keys: deriveVaultKeys(ring.vaultId, ring.epochs),
    recoveryKey: recovery?.printed,
  };
}

/**
 * The header of the vault in `store`.
 *
 * Errors: StoreNotFound (after-change) where the place is empty, StoreForeign (after-change) where
 * it holds something else, StoreFormatNewer (after-change), ObjectCorrupt (never) where the header
 * is damaged, ObjectNotFound (never) where it is missing from a vault; those of the store.
 */
export async function readVaultHeader(
  store: ObjectStore,
  signal?: AbortSignal,
): Promise<VaultHeader> {
  const info = await store.stat(vaultHeaderName, signal);
  if (info === undefined) throw await missingHeader(store, signal);
  const lengthBytes = Math.min(info.sizeBytes, vaultHeaderBytesMax + 1);
  return parseVaultHeader(
    await store.get(vaultHeaderName, { offsetBytes: 0, lengthBytes }, signal),
  );
}

/** Reads the header and opens the key ring; errors of {@link readVaultHeader} and {@link openKeyRing}. */
export async function openVaultFiles(
  store: ObjectStore,
  secret: KeySecret,
  signal?: AbortSignal,
): Promise<OpenedVault> {
  const header = await readVaultHeader(store, signal);
  const ring = await openKeyRing(store, header.vaultId, secret, signal);
  return { header, ring, keys: deriveVaultKeys(ring.vaultId, ring.epochs) };
}

/** Adds a slot for `secret` to a vault that is open; returns the slot's name. See {@link addKeySlot}. */
export async function addVaultKey(
  store: ObjectStore,
  vault: OpenedVault,
  secret: KeySecret,
  options: { readonly random: RandomSource; readonly signal?: AbortSignal },
): Promise<string> {
  return addKeySlot(store, vault.ring, secret, options);
}

/** The header and the key slots of a vault; needs no key. Errors of {@link readVaultHeader}. */
export async function listVaultKeys(
  store: ObjectStore,
  signal?: AbortSignal,
): Promise<{ readonly header: VaultHeader; readonly listing: SlotListing }> {
  const header = await readVaultHeader(store, signal);
  return { header, listing: await listKeySlots(store, header.vaultId, signal) };
}

/** What a place without `vault.json` holds. */
type PlaceContent = "nothing" | "vault" | "part-of-vault" | "foreign";

/** Throws what {@link createVaultFiles} would throw for a place that cannot become a vault. */
export async function assertPlaceIsFree(store: ObjectStore, signal?: AbortSignal): Promise<void> {
  if ((await store.stat(vaultHeaderName, signal)) !== undefined) throw vaultExists(store);
  const content = await examinePlace(store, signal);
  if (content === "foreign") throw foreignPlace(store);
  if (content === "vault") throw vaultExists(store);
  if (content === "part-of-vault") {
    throw new KluisError(
      "StoreNotEmpty",
      `Cannot create a vault in "${store.location}": it holds a vault whose vault.json is missing`,
    );
  }
}

async function missingHeader(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<KluisError> {
  const content = await examinePlace(store, signal);
  if (content === "foreign") return foreignPlace(store);
  if (content === "vault") {
    return new KluisError(
      "StoreUnavailable",
      `Cannot open the vault in "${store.location}": it is being created just now`,
    );
  }
  if (content === "nothing") {
    return new KluisError(
      "StoreNotFound",
      `Cannot open a vault in "${store.location}": there is none`,
    );
  }
  return new KluisError(
    "ObjectNotFound",
    `Cannot open the vault in "${store.location}": its vault.json is missing`,
    { details: { object: vaultHeaderName } },
  );
}

/** Slots alone count as nothing: a creation that did not finish leaves them. */
async function examinePlace(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<PlaceContent> {
  let content: PlaceContent = "nothing";
  for await (const { name } of store.list("", signal)) {
    const kind = parseStoreName(name)?.kind;
    if (kind === undefined) return "foreign";
    if (kind === "vault-header") return "vault";
    if (kind !== "slot") content = "part-of-vault";
  }
  return content;
}

function vaultExists(store: ObjectStore): KluisError {
  return new KluisError(
    "StoreNotEmpty",
    `Cannot create a vault in "${store.location}": there is one`,
  );
}

function foreignPlace(store: ObjectStore): KluisError {
  return new KluisError(
    "StoreForeign",
    `Cannot use "${store.location}": it holds something that is not a Kluis vault`,
  );
}
