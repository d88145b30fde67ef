/** Sealing a key ring into one slot and opening it again; docs/design/vault-format.md §3. */
import {
  argon2,
  createCipheriv,
  createDecipheriv,
  hkdfSync,
  type Argon2Parameters,
  type KeyObject,
} from "node:crypto";

import { assert } from "#base/assert.ts";
import { concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import {
  argon2MemoryKibMin,
  argon2PassesMin,
  encodeKeySlot,
  encodeSlotFrame,
  isWrapped,
  parseKeySlot,
  slotNonceBytes,
  slotSaltBytes,
  slotTagBytes,
  type Argon2Cost,
  type KeySlot,
  type SlotFrame,
  type SlotKdf,
} from "#formats/key-slot.ts";
import { encodeKeyEpochs, parseKeyEpochs, type KeyRing } from "#vault/keys/key-ring.ts";
import { publicKeyOf, toPrivateKey } from "#vault/keys/slot-keys.ts";
import { isProvided, type KeySecret, type ProvidedSecret } from "#vault/key-secret.ts";

/** What new slots cost to open: about 0.1 s and 64 MiB (ADR 0003). */
export const argon2CostDefault: Argon2Cost = {
  memoryKib: argon2MemoryKibMin,
  passes: argon2PassesMin,
  parallelism: 4,
};

const cipherName = "aes-256-gcm";
const kekBytes = 32;

/** A slot that was sealed. */
export interface SealedSlot {
  readonly bytes: Uint8Array;
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
}

/** What a slot held. */
export interface UnsealedSlot {
  /** The ring as it was when the slot was made. */
  readonly ring: KeyRing;
  /** Opens the boxes of later rings. */
  readonly privateKey: KeyObject;
}

/** A key-encryption key and how its secret leads to it. */
interface DerivedKek {
  readonly kdf: SlotKdf;
  readonly kek: Uint8Array;
}

/**
 * A new slot that opens `ring` with `secret`. The slot is opened again before it is returned: a slot
 * that does not open is a vault lost. Errors: those of the key provider.
 */
export async function sealSlot(
  ring: KeyRing,
  secret: KeySecret,
  options: {
    readonly random: RandomSource;
    readonly cost?: Argon2Cost;
    readonly signal?: AbortSignal;
  },
): Promise<SealedSlot> {
  const { kdf, kek } = await makeKek(secret, options);
  const publicKey = publicKeyOf(slotPrivateKey(kek, ring.vaultId));
  const frame: SlotFrame = { vaultId: ring.vaultId, type: secret.type, kdf, publicKey };
  const nonce = options.random.bytes(slotNonceBytes);
  const plain = encodeKeyEpochs(ring.epochs);
  const cipher = createCipheriv(cipherName, kek, nonce).setAAD(encodeSlotFrame(frame));
  const sealed = concatBytes([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  kek.fill(0);
  plain.fill(0);
  const bytes = encodeKeySlot({ ...frame, nonce, sealed });
  const opened = await openSlot(parseKeySlot(bytes), secret, options.signal);
  assert(
    opened?.ring.epochs.length === ring.epochs.length,
    "a slot opens with the secret it was made for",
  );
  return { bytes, publicKey };
}

/**
 * What `slot` holds; `undefined` where `secret` does not open it, which a damaged slot cannot be
 * told from. ObjectCorrupt (never) where it opens and what is sealed is no ring; those of the key
 * provider.
 */
export async function openSlot(
  slot: KeySlot,
  secret: KeySecret,
  signal?: AbortSignal,
): Promise<UnsealedSlot | undefined> {
  if (!mayOpen(slot, secret)) return undefined;
  const tagAt = slot.sealed.byteLength - slotTagBytes;
  const kek = await deriveKek(secret, slot.kdf, signal);
  const decipher = createDecipheriv(cipherName, kek, slot.nonce, { authTagLength: slotTagBytes })
    .setAAD(encodeSlotFrame(slot))
    .setAuthTag(slot.sealed.subarray(tagAt));
  const privateKey = slotPrivateKey(kek, slot.vaultId);
  kek.fill(0);
  const plain = decipher.update(slot.sealed.subarray(0, tagAt));
  try {
    decipher.final();
  } catch {
    // The tag does not match: another secret, or another slot.
    return undefined;
  }
  const epochs = parseKeyEpochs(plain);
  plain.fill(0);
  return { ring: { vaultId: slot.vaultId, epochs }, privateKey };
}

/** Whether `secret` is of the kind of `slot`; for a provider's key, whether the slot names it. */
export function mayOpen(slot: SlotFrame, secret: KeySecret): boolean {
  if (slot.type !== secret.type) return false;
  if (!isProvided(secret)) return true;
  // Where the slot says that the key lies elsewhere, it is not asked for there: a store is not trusted.
  return isWrapped(slot.kdf) && keyOfSlot(slot.kdf.key, secret) === keyOfSlot(secret.key, secret);
}

/** `undefined` for what a hostile slot may name. */
function keyOfSlot(key: string, { provider }: ProvidedSecret): string | undefined {
  try {
    return provider.keyOf(key);
  } catch (error) {
    if (isKluisError(error, "ArgumentInvalid")) return undefined;
    throw error;
  }
}

async function makeKek(
  secret: KeySecret,
  options: {
    readonly random: RandomSource;
    readonly cost?: Argon2Cost;
    readonly signal?: AbortSignal;
  },
): Promise<DerivedKek> {
  if (isProvided(secret)) {
    const { provider } = secret;
    const kek = options.random.bytes(kekBytes);
    const { key, algorithm, wrapped } = await provider.wrap(secret.key, kek, options.signal);
    const follow = provider.keyOf(secret.key) === secret.key;
    return { kdf: { name: algorithm, key, follow, wrapped }, kek };
  }
  const salt = options.random.bytes(slotSaltBytes);
  const kdf: SlotKdf =
    secret.type === "key-file"
      ? { name: "hkdf-sha256", salt }
      : { name: "argon2id", salt, ...(options.cost ?? argon2CostDefault) };
  return { kdf, kek: await deriveKek(secret, kdf, options.signal) };
}

async function deriveKek(
  secret: KeySecret,
  kdf: SlotKdf,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  if (isProvided(secret)) {
    assert(isWrapped(kdf), "the slot of a provider's key holds a wrapped KEK");
    const { key, name: algorithm, wrapped } = kdf;
    const kek = await secret.provider.unwrap({ key, algorithm, wrapped }, signal);
    assert(kek.byteLength === kekBytes, "a provider unwraps what it wrapped");
    return kek;
  }
  assert(!isWrapped(kdf), "only slots of a provider's key hold a wrapped KEK");
  if (kdf.name === "hkdf-sha256") {
    const info = "kluis/v1/slot/key-file";
    return new Uint8Array(hkdfSync("sha256", secret.material, kdf.salt, info, kekBytes));
  }
  return runArgon2id({
    message: secret.material,
    nonce: kdf.salt,
    memory: kdf.memoryKib,
    passes: kdf.passes,
    parallelism: kdf.parallelism,
    tagLength: kekBytes,
  });
}

function slotPrivateKey(kek: Uint8Array, vaultId: Uint8Array): KeyObject {
  const info = "kluis/v1/slot/private-key";
  return toPrivateKey(new Uint8Array(hkdfSync("sha256", kek, vaultId, info, kekBytes)));
}

/** Runs in the thread pool of Node, so that nothing else waits for it. */
function runArgon2id(parameters: Argon2Parameters): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    argon2("argon2id", parameters, (error, key) => {
      if (error === null) resolve(key);
      else reject(error);
    });
  });
}
