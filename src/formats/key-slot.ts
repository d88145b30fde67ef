/**
 * Key slots: the key ring of a vault, wrapped by one secret; docs/design/vault-format.md §3.1.
 *
 * Pure text: deriving, sealing and opening are the vault's.
 */
import { assert } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";

/** Kinds of secrets that a slot can be opened with. */
export type SlotType = "passphrase" | "recovery" | "key-file";

/** Cost of Argon2id. */
export interface Argon2Cost {
  /** From 64 MiB to 1 GiB. */
  readonly memoryKib: number;
  /** From 3 to 16. */
  readonly passes: number;
  /** From 1 to 16. */
  readonly parallelism: number;
}

/** How a secret becomes the key-encryption key. */
export type SlotKdf =
  | ({ readonly name: "argon2id"; readonly salt: Uint8Array } & Argon2Cost)
  | { readonly name: "hkdf-sha256"; readonly salt: Uint8Array };

/** The part of a slot that its seal authenticates. */
export interface SlotFrame {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  readonly type: SlotType;
  /** Argon2id for what people choose or type, HKDF for a key file. Salt of 32 bytes. */
  readonly kdf: SlotKdf;
}

/** One key slot. */
export interface KeySlot extends SlotFrame {
  /** 12 bytes. */
  readonly nonce: Uint8Array;
  /** Ciphertext and tag of the key ring. */
  readonly sealed: Uint8Array;
}

/** Most bytes of a slot object. */
export const slotBytesMax = 64 * 1024;
/** Bytes of a slot's salt, of its nonce and of the tag at the end of what is sealed. */
export const slotSaltBytes = 32;
export const slotNonceBytes = 12;
export const slotTagBytes = 16;
/** Bounds on Argon2id; above them a slot could make its reader run out of memory or time. */
export const argon2MemoryKibMin = 64 * 1024;
export const argon2MemoryKibMax = 1024 * 1024;
export const argon2PassesMin = 3;
export const argon2PassesMax = 16;
export const argon2ParallelismMax = 16;

const format = "kluis-key-slot";
const slotVersion = 1;
const sealedBytesMax = 24 * 1024;

/** The one encoding of `slot`. */
export function encodeKeySlot(slot: KeySlot): Uint8Array {
  assert(slot.nonce.byteLength === slotNonceBytes, "a nonce has 12 bytes");
  assert(slot.sealed.byteLength > slotTagBytes, "something is sealed");
  assert(slot.sealed.byteLength <= sealedBytesMax, "a key ring fits into its slot");
  return encodeJsonLine({
    ...frameMembers(slot),
    nonce: toHex(slot.nonce),
    sealed: toHex(slot.sealed),
  });
}

/** What the seal of a slot authenticates beside the ring: the encoding of `frame` alone. */
export function encodeSlotFrame(frame: SlotFrame): Uint8Array {
  return encodeJsonLine(frameMembers(frame));
}

/**
 * Parses a key slot.
 *
 * Errors: ObjectCorrupt (never); StoreFormatNewer (after-change) for a slot of a newer version.
 */
export function parseKeySlot(bytes: Uint8Array): KeySlot {
  const members = JsonMembers.parse(bytes, { bytesMax: slotBytesMax }, "key slot");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > slotVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot read a key slot: its format is version ${version}, this program knows ${slotVersion}`,
    );
  }
  const type = members.text("type");
  if (!isSlotType(type)) throw members.corrupt("its type is unknown");
  const slot: KeySlot = {
    vaultId: members.hex("vaultId", vaultIdBytes),
    type,
    kdf: parseKdf(members.members("kdf"), type),
    nonce: members.hex("nonce", slotNonceBytes),
    sealed: members.hex("sealed", slotTagBytes + 1, sealedBytesMax),
  };
  if (!bytesEqual(bytes, encodeKeySlot(slot))) throw members.corrupt("it is out of form");
  return slot;
}

function frameMembers(frame: SlotFrame): Record<string, unknown> {
  assert(frame.vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  return {
    format,
    version: slotVersion,
    vaultId: toHex(frame.vaultId),
    type: frame.type,
    kdf: kdfMembers(frame),
  };
}

function kdfMembers({ kdf, type }: SlotFrame): Record<string, unknown> {
  assert(kdf.salt.byteLength === slotSaltBytes, "a salt has 32 bytes");
  assert((kdf.name === "hkdf-sha256") === (type === "key-file"), "key files alone use HKDF");
  const salt = toHex(kdf.salt);
  if (kdf.name === "hkdf-sha256") return { name: kdf.name, salt };
  const { memoryKib, passes, parallelism } = kdf;
  assert(memoryKib >= argon2MemoryKibMin && memoryKib <= argon2MemoryKibMax, "memory in bounds");
  assert(passes >= argon2PassesMin && passes <= argon2PassesMax, "passes in bounds");
  assert(parallelism >= 1 && parallelism <= argon2ParallelismMax, "parallelism in bounds");
  return { name: kdf.name, salt, memoryKib, passes, parallelism };
}

function parseKdf(members: JsonMembers, type: SlotType): SlotKdf {
  const name = members.text("name");
  const salt = members.hex("salt", slotSaltBytes);
  if (name === "hkdf-sha256" && type === "key-file") return { name, salt };
  if (name !== "argon2id" || type === "key-file") throw members.corrupt("its KDF is unknown");
  return {
    name,
    salt,
    memoryKib: members.integer("memoryKib", argon2MemoryKibMin, argon2MemoryKibMax),
    passes: members.integer("passes", argon2PassesMin, argon2PassesMax),
    parallelism: members.integer("parallelism", 1, argon2ParallelismMax),
  };
}

function isSlotType(text: string): text is SlotType {
  return text === "passphrase" || text === "recovery" || text === "key-file";
}
