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
  vaultIdBytes as idBytes,
  vaultVersion,
  type VaultHeader,
} from "#formats/vault-header.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { createRecoveryKey, type KeySecret } from "#vault/key-secret.ts";
import { putRecord } from "#vault/keys/change-keys.ts";
import { createKeyRing, type KeyRing } from "#vault/keys/key-ring.ts";
import { type OpenedRing, openKeyRing } from "#vault/keys/open-ring.ts";
import {
  openKeyRecord,
  readKeyRecords,
  type RecordListing,
  sealKeyRecord,
} from "#vault/keys/records.ts";
import { listKeySlots, type PutSlot, putSlot, type SlotListing } from "#vault/keys/slots.ts";
import { deriveVaultKeys, learnEpochs, type VaultKeys } from "#vault/keys/vault-keys.ts";

/** Bytes of a vault's id. */
export const vaultIdBytes = idBytes;

/** How a vault is created. */
export interface CreateVaultOptions {
  /** At least one; two or more are better, so that one can be lost. */
  readonly secrets: readonly KeySecret[];
  readonly random: RandomSource;
  /** Whether a recovery key is made and gets a slot; yes unless said otherwise. */
  readonly withRecoveryKey?: boolean;
  /** 16 random bytes that the caller has shown already; fresh ones by default. */
  readonly vaultId?: Uint8Array;
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
  /** For changes of keys: see `key-changes.ts`. */
  readonly opened: OpenedRing;
  readonly keys: VaultKeys;
}

/**
 * Makes an empty place a vault. The slots come first, then the key record, then every key is proved by
 * opening the ring from the store with it, and `vault.json` comes last, whose put-if-absent is the one
 * commit: after a crash before it the place counts as empty. Of racing calls one succeeds.
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
  const ring = createKeyRing(random, options.vaultId);
  await putKeys(store, ring, secrets, options);
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

/** Puts the slots and record 1, and opens the ring from the store with each of the secrets. */
async function putKeys(
  store: ObjectStore,
  ring: KeyRing,
  secrets: readonly KeySecret[],
  options: CreateVaultOptions,
): Promise<void> {
  const { random, signal } = options;
  const put: PutSlot[] = [];
  for (const secret of secrets) put.push(await putSlot(store, ring, secret, options));
  const slots = put.map(({ hash, slot }) => ({ hash, publicKey: slot.publicKey }));
  const bytes = sealKeyRecord(ring, { number: 1, slots }, random);
  const isOurs = await putRecord(
    { store, ...options },
    { vaultId: ring.vaultId, number: 1 },
    bytes,
  );
  assert(isOurs, "nobody else knows the id of a vault that is being created");
  for (const secret of secrets) await openKeyRing(store, ring.vaultId, secret, signal);
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
  const opened = await openKeyRing(store, header.vaultId, secret, signal);
  return { header, opened, keys: deriveVaultKeys(header.vaultId, opened.ring.epochs) };
}

/**
 * Takes in the key epochs that began since the vault was opened, for whoever holds its keys; whether there are any.
 * None, too, where the slot that opened it is no longer valid. Errors: those of the store, ObjectCorrupt (never).
 */
export async function rereadKeys(
  store: ObjectStore,
  { header, opened, keys }: OpenedVault,
  signal?: AbortSignal,
): Promise<boolean> {
  const { newest } = await readKeyRecords(store, header.vaultId, signal);
  if (newest === undefined) return false;
  const ring = openKeyRecord(newest, opened.slot.hash, opened.unsealed);
  return ring !== undefined && learnEpochs(keys, ring.epochs);
}

/** Everything about the keys of a vault that shows without one. */
export interface VaultKeyListing {
  readonly header: VaultHeader;
  readonly listing: SlotListing;
  readonly records: RecordListing;
}

/** The header, the key slots and the newest key record; needs no key. Errors of {@link readVaultHeader}. */
export async function listVaultKeys(
  store: ObjectStore,
  signal?: AbortSignal,
): Promise<VaultKeyListing> {
  const header = await readVaultHeader(store, signal);
  const listing = await listKeySlots(store, header.vaultId, signal);
  return { header, listing, records: await readKeyRecords(store, header.vaultId, signal) };
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

/** Slots and key records alone count as nothing: a creation that did not finish leaves them. */
async function examinePlace(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<PlaceContent> {
  let content: PlaceContent = "nothing";
  for await (const { name } of store.list("", signal)) {
    const kind = parseStoreName(name)?.kind;
    if (kind === undefined) return "foreign";
    if (kind === "vault-header") return "vault";
    if (kind !== "slot" && kind !== "key-record") content = "part-of-vault";
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
