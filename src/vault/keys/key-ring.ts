/** The key ring: all versions of a vault's master key; docs/design/vault-format.md §3. */
import { assert } from "#base/assert.ts";
import { concatBytes } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { ByteReader, ByteWriter } from "#formats/byte-stream.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";
import type { KeyEpoch } from "#vault/keys/vault-keys.ts";

/** Most epochs of a ring: a rotation a month for 20 years. */
export const keyEpochsMax = 256;

/** Bytes of a master key. */
export const masterKeyBytes = 32;
const epochMax = 2 ** 32 - 1;

/** The master keys of one vault. A secret: never logged, never stored unsealed. */
export interface KeyRing {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  /** Ascending, from epoch 1 on. */
  readonly epochs: readonly KeyEpoch[];
}

/** A ring for a new vault: a fresh id, unless one is given, and one fresh master key. */
export function createKeyRing(random: RandomSource, vaultId?: Uint8Array): KeyRing {
  return {
    vaultId: vaultId ?? random.bytes(vaultIdBytes),
    epochs: [{ epoch: 1, masterKey: random.bytes(masterKeyBytes) }],
  };
}

/** The plaintext that a slot seals. */
export function encodeKeyEpochs(epochs: readonly KeyEpoch[]): Uint8Array {
  assert(epochs.length >= 1 && epochs.length <= keyEpochsMax, "a ring holds 1 to 256 epochs");
  const writer = new ByteWriter(16 + epochs.length * (masterKeyBytes + 5));
  writer.varint(epochs.length);
  let before = 0;
  for (const { epoch, masterKey } of epochs) {
    assert(epoch > before && epoch <= epochMax, "epochs ascend");
    assert(before !== 0 || epoch === 1, "the first epoch of a key ring is 1");
    assert(masterKey.byteLength === masterKeyBytes, "a master key has 32 bytes");
    writer.varint(epoch);
    writer.bytes(masterKey);
    before = epoch;
  }
  return writer.finish();
}

/** Parses what {@link encodeKeyEpochs} wrote; copies the keys. ObjectCorrupt (never). */
export function parseKeyEpochs(bytes: Uint8Array): KeyEpoch[] {
  const reader = new ByteReader(bytes, "key ring");
  const count = reader.varint(keyEpochsMax);
  if (count === 0) throw reader.corrupt("it is empty");
  const epochs: KeyEpoch[] = [];
  for (let at = 0; at < count; at++) {
    const epoch = reader.varint(epochMax);
    const before = epochs.at(-1)?.epoch ?? 0;
    if (epoch <= before || (at === 0 && epoch !== 1)) throw reader.corrupt("epochs do not ascend");
    epochs.push({ epoch, masterKey: concatBytes([reader.bytes(masterKeyBytes)]) });
  }
  reader.end();
  return epochs;
}
