/**
 * Keys derived from the key ring of a vault; docs/design/vault-format.md §3.
 *
 * {@link VaultKeys} is plain data so that it can be handed to a worker thread. It holds secrets:
 * it is never logged, serialized to disk or put into an error.
 */
import { createSecretKey, hkdfSync, type KeyObject } from "node:crypto";

import { assert, present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";

/** One version of the master key. */
export interface KeyEpoch {
  /** 1 to 2^32 - 1, unique in the ring. */
  readonly epoch: number;
  /** 32 bytes. */
  readonly masterKey: Uint8Array;
}

/** All keys that reading and writing a vault needs. Every key is 32 bytes. */
export interface VaultKeys {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  /** Ascending; the last one seals what is written now. */
  readonly epochs: readonly KeyEpoch[];
  readonly blockIdKey: Uint8Array;
  readonly nodeIdKey: Uint8Array;
  readonly checksumKey: Uint8Array;
  readonly itemNameKey: Uint8Array;
}

/** Types of containers by their byte in the header; §4. */
export const containerTypes = {
  pack: 1,
  mapPack: 2,
  indexSegment: 3,
  manifest: 4,
  tombstone: 5,
  control: 6,
} as const;

/** A type of container. */
export type ContainerType = keyof typeof containerTypes;

const keyBytes = 32;

/** Derives every fixed key from the ring. `epochs` is ascending and starts with epoch 1. */
export function deriveVaultKeys(vaultId: Uint8Array, epochs: readonly KeyEpoch[]): VaultKeys {
  assert(vaultId.byteLength === 16, "a vault id has 16 bytes");
  const first = present(epochs[0], "a key ring holds an epoch");
  assert(first.epoch === 1, "the first epoch of a key ring is 1");
  const derive = (use: string): Uint8Array => hkdf(first.masterKey, vaultId, `kluis/v1/${use}`);
  return {
    vaultId,
    epochs: [...epochs],
    blockIdKey: derive("block-id"),
    nodeIdKey: derive("node-id"),
    checksumKey: derive("checksum"),
    itemNameKey: derive("item-name"),
  };
}

/**
 * Takes in the epochs of a later ring of the same vault, for whoever holds these keys in this thread; whether
 * there were any. What is sealed from now on is sealed under the newest.
 */
export function learnEpochs(keys: VaultKeys, ring: readonly KeyEpoch[]): boolean {
  const added = ring.filter(({ epoch }) => epoch > currentEpoch(keys));
  (keys.epochs as KeyEpoch[]).push(...added);
  return added.length > 0;
}

/** The key of the MACs of inventory and findings under one epoch. Throws KeyWrong (after-change). */
export function deriveLedgerKey(keys: VaultKeys, epoch: number): Uint8Array {
  return hkdf(epochOf(keys, epoch).masterKey, keys.vaultId, "kluis/v1/inventory");
}

/** The key of one container. Throws KeyWrong (after-change) where the ring lacks the epoch. */
export function deriveContainerKey(
  keys: VaultKeys,
  container: { readonly type: ContainerType; readonly epoch: number; readonly salt: Uint8Array },
): KeyObject {
  const epoch = epochOf(keys, container.epoch);
  const parent = hkdf(epoch.masterKey, keys.vaultId, `kluis/v1/container/${container.type}`);
  return createSecretKey(hkdf(parent, container.salt, "kluis/v1/container-key"));
}

/** The epoch under which new containers are sealed. */
export function currentEpoch(keys: VaultKeys): number {
  return present(keys.epochs.at(-1), "a key ring holds an epoch").epoch;
}

function epochOf(keys: VaultKeys, number: number): KeyEpoch {
  const epoch = keys.epochs.find((candidate) => candidate.epoch === number);
  if (epoch !== undefined) return epoch;
  throw new KluisError(
    "KeyWrong",
    `Cannot read an object: it was sealed under key epoch ${number}, which this key does not hold`,
  );
}

function hkdf(key: Uint8Array, salt: Uint8Array, info: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", key, salt, info, keyBytes));
}
