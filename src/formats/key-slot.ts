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

/** Slots whose KEK a key provider wraps: a key of its owner's, or one that the service holds. */
export type ProvidedSlotType = "customer-key" | "platform-key";
/** Kinds of secrets that a slot can be opened with. */
export type SlotType = "passphrase" | "recovery" | "key-file" | ProvidedSlotType;

/** How a provider wraps a KEK: RSAES-OAEP with SHA-256, or AES key wrap with 256 bits (RFC 3394). */
export type WrapAlgorithm = "RSA-OAEP-256" | "A256KW";

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
  | { readonly name: "hkdf-sha256"; readonly salt: Uint8Array }
  | WrappedKek;

/** A KEK of random bits that a key provider has wrapped. */
export interface WrappedKek {
  readonly name: WrapAlgorithm;
  /** The provider's key with its version; 1 to 1,024 printable ASCII characters. */
  readonly key: string;
  /** Whether a newer version of the key is to take this one's place. */
  readonly follow: boolean;
  /** 40 to 1,024 bytes. */
  readonly wrapped: Uint8Array;
}

/** The part of a slot that its seal authenticates. */
export interface SlotFrame {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  readonly type: SlotType;
  /** Argon2id for what people choose or type, HKDF for a key file, else a wrapped KEK. Salts of 32 bytes. */
  readonly kdf: SlotKdf;
  /** X25519, 32 bytes: for whom later rings are boxed in key records. */
  readonly publicKey: Uint8Array;
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
/** Bytes of a slot's public key. */
export const slotPublicKeyBytes = 32;
/** Bytes of a wrapped KEK: RFC 3394 makes 40 of 32, RSA up to its modulus. */
export const wrappedKekBytesMin = 40;
export const wrappedKekBytesMax = 1024;
/** Most characters of the name of a provider's key. */
export const providerKeyCharsMax = 1024;
/** Bounds on Argon2id; above them a slot could make its reader run out of memory or time. */
export const argon2MemoryKibMin = 64 * 1024;
export const argon2MemoryKibMax = 1024 * 1024;
export const argon2PassesMin = 3;
export const argon2PassesMax = 16;
export const argon2ParallelismMax = 16;

const format = "kluis-key-slot";
const slotVersion = 1;
const sealedBytesMax = 24 * 1024;
const printable = /^[\x21-\x7e]+$/;

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
    publicKey: members.hex("publicKey", slotPublicKeyBytes),
    nonce: members.hex("nonce", slotNonceBytes),
    sealed: members.hex("sealed", slotTagBytes + 1, sealedBytesMax),
  };
  if (!bytesEqual(bytes, encodeKeySlot(slot))) throw members.corrupt("it is out of form");
  return slot;
}

function frameMembers(frame: SlotFrame): Record<string, unknown> {
  assert(frame.vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  assert(frame.publicKey.byteLength === slotPublicKeyBytes, "a public key has 32 bytes");
  return {
    format,
    version: slotVersion,
    vaultId: toHex(frame.vaultId),
    type: frame.type,
    kdf: kdfMembers(frame),
    publicKey: toHex(frame.publicKey),
  };
}

function kdfMembers({ kdf, type }: SlotFrame): Record<string, unknown> {
  assert(kdfFits(kdf.name, type), "each type of slot has its KDF");
  if (isWrapped(kdf)) {
    const { name, key, follow, wrapped } = kdf;
    assert(isProviderKey(key), "a provider's key has a name");
    const { byteLength } = wrapped;
    assert(byteLength >= wrappedKekBytesMin && byteLength <= wrappedKekBytesMax, "a wrapped KEK");
    return { name, key, follow, wrapped: toHex(wrapped) };
  }
  assert(kdf.salt.byteLength === slotSaltBytes, "a salt has 32 bytes");
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
  if (!kdfFits(name, type)) throw members.corrupt("its KDF is unknown");
  if (name === "RSA-OAEP-256" || name === "A256KW") {
    const key = members.text("key");
    if (!isProviderKey(key)) throw members.corrupt("its key has no name");
    const wrapped = members.hex("wrapped", wrappedKekBytesMin, wrappedKekBytesMax);
    return { name, key, follow: members.boolean("follow"), wrapped };
  }
  const salt = members.hex("salt", slotSaltBytes);
  if (name === "hkdf-sha256") return { name, salt };
  return {
    name: "argon2id",
    salt,
    memoryKib: members.integer("memoryKib", argon2MemoryKibMin, argon2MemoryKibMax),
    passes: members.integer("passes", argon2PassesMin, argon2PassesMax),
    parallelism: members.integer("parallelism", 1, argon2ParallelismMax),
  };
}

/** Whether `kdf` holds a wrapped KEK. */
export function isWrapped(kdf: SlotKdf): kdf is WrappedKek {
  return kdf.name === "RSA-OAEP-256" || kdf.name === "A256KW";
}

/** Whether `text` can name a provider's key in a slot. */
export function isProviderKey(text: string): boolean {
  return text.length <= providerKeyCharsMax && printable.test(text);
}

const kdfsOfType: Readonly<Record<SlotType, readonly string[]>> = {
  passphrase: ["argon2id"],
  recovery: ["argon2id"],
  "key-file": ["hkdf-sha256"],
  "customer-key": ["RSA-OAEP-256", "A256KW"],
  "platform-key": ["RSA-OAEP-256", "A256KW"],
};

function kdfFits(name: string, type: SlotType): boolean {
  return kdfsOfType[type].includes(name);
}

function isSlotType(text: string): text is SlotType {
  return Object.hasOwn(kdfsOfType, text);
}
