/** The proof that a key of a vault can do what it will be needed for; docs/design/keys.md. */
import { isKluisError } from "#base/kluis-error.ts";
import { containerHeaderBytes, parseContainerHeader } from "#formats/container.ts";
import { indexPrefix, parseStoreName, pointPrefix } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import { isTombstone } from "#vault/gc/run-steps.ts";
import type { ContainerType } from "#vault/keys/vault-keys.ts";
import { objectBytesMax } from "#vault/limits.ts";
import type { OpenedVault } from "#vault/vault-files.ts";

/** Most objects whose headers a proof reads, newest recovery points first. */
export const proofObjectsMax = 512;

/** What was proven of one epoch. */
export interface ProvenEpoch {
  readonly epoch: number;
  /** An object that was sealed under it and has been decrypted; absent where none was found. */
  readonly object?: string;
}

/** What a proof came to. */
export interface KeyProof {
  /** Name of the slot that opened. */
  readonly slot: string;
  /** Number of the newest key record; 0 where none can be read. */
  readonly record: number;
  /** Every epoch of the ring, ascending. */
  readonly epochs: readonly ProvenEpoch[];
  /** Key records that are damaged or missing, and objects that this key should decrypt and does not. */
  readonly failed: readonly string[];
  /** Objects whose headers were read. */
  readonly objectsRead: number;
}

/**
 * Proves the key that opened `vault`: for each epoch of its ring an object that was sealed under it is
 * decrypted, manifests before index segments. The ring itself was proved when the vault was opened.
 *
 * Errors: those of the store.
 */
export async function proveVaultKey(
  store: ObjectStore,
  vault: OpenedVault,
  signal?: AbortSignal,
): Promise<KeyProof> {
  const { opened, keys } = vault;
  const { newest, damaged, missing } = opened.records;
  const failed = [...damaged, ...missing];
  const proven = new Map<number, string>();
  let objectsRead = 0;
  for (const candidate of await listCandidates(store, signal)) {
    if (objectsRead === proofObjectsMax) break;
    objectsRead++;
    const epoch = await readEpoch(store, candidate, signal);
    if (epoch === "gone" || (typeof epoch === "number" && proven.has(epoch))) continue;
    if (await isGivenUp(store, candidate, { keys, signal })) continue;
    const isOpened = epoch !== undefined && (await opens(store, candidate, { keys, signal }));
    if (isOpened) proven.set(epoch, candidate.name);
    else failed.push(candidate.name);
  }
  const epochs = opened.ring.epochs.map(({ epoch }): ProvenEpoch => {
    const object = proven.get(epoch);
    return object === undefined ? { epoch } : { epoch, object };
  });
  return { slot: opened.slot.name, record: newest?.number ?? 0, epochs, failed, objectsRead };
}

interface Candidate {
  readonly name: string;
  readonly sizeBytes: number;
  readonly type: ContainerType;
}

/** Manifests, newest first, then index segments. */
async function listCandidates(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<readonly Candidate[]> {
  const manifests: (Candidate & { readonly point: string })[] = [];
  for await (const { name, sizeBytes } of store.list(pointPrefix, signal)) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "manifest") continue;
    manifests.push({ name, sizeBytes, type: "manifest", point: parsed.point });
  }
  manifests.sort((a, b) => (a.point < b.point ? 1 : -1));
  const segments: Candidate[] = [];
  for await (const { name, sizeBytes } of store.list(indexPrefix, signal)) {
    if (parseStoreName(name)?.kind !== "index-segment") continue;
    segments.push({ name, sizeBytes, type: "indexSegment" });
  }
  // Half of the budget for each where there are many of both.
  const half = Math.max(proofObjectsMax / 2, proofObjectsMax - segments.length);
  return [...manifests.slice(0, half), ...segments];
}

/** The epoch in a header; `undefined` where it is damaged. */
async function readEpoch(
  store: ObjectStore,
  { name, sizeBytes }: Candidate,
  signal: AbortSignal | undefined,
): Promise<number | "gone" | undefined> {
  const lengthBytes = Math.min(sizeBytes, containerHeaderBytes);
  try {
    const header = await store.get(name, { offsetBytes: 0, lengthBytes }, signal);
    return parseContainerHeader(header, name).epoch;
  } catch (error) {
    // Removed since it was listed.
    if (isKluisError(error, "ObjectNotFound")) return "gone";
    if (isKluisError(error, "ObjectCorrupt")) return undefined;
    throw error;
  }
}

/** At the name of a manifest there may be the tombstone of a backup that was taken for dead. */
async function isGivenUp(
  store: ObjectStore,
  candidate: Candidate,
  options: { readonly keys: OpenedVault["keys"]; readonly signal: AbortSignal | undefined },
): Promise<boolean> {
  return candidate.type === "manifest" && (await isTombstone(candidate, { store, ...options }));
}

async function opens(
  store: ObjectStore,
  { name, sizeBytes, type }: Candidate,
  options: { readonly keys: OpenedVault["keys"]; readonly signal: AbortSignal | undefined },
): Promise<boolean> {
  if (sizeBytes > objectBytesMax) return false;
  try {
    const range = { offsetBytes: 0, lengthBytes: sizeBytes };
    const bytes = await store.get(name, range, options.signal);
    openContainer(options.keys, { name, bytes, type });
    return true;
  } catch (error) {
    const isItsFault = ["ObjectCorrupt", "ObjectNotFound", "KeyWrong"] as const;
    if (isItsFault.some((code) => isKluisError(error, code))) return false;
    throw error;
  }
}
