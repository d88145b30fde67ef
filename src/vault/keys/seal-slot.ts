/** Sealing a key ring into one slot and opening it again; docs/design/vault-format.md §3. */
import {
  argon2,
  createCipheriv,
  createDecipheriv,
  hkdfSync,
  type Argon2Parameters,
} from "node:crypto";

import { assert } from "#base/assert.ts";
import { concatBytes } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import {
  argon2MemoryKibMin,
  argon2PassesMin,
  encodeKeySlot,
  encodeSlotFrame,
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
import type { KeySecret } from "#vault/key-secret.ts";

/** What new slots cost to open: about 0.1 s and 64 MiB (ADR 0003). */
export const argon2CostDefault: Argon2Cost = {
  memoryKib: argon2MemoryKibMin,
  passes: argon2PassesMin,
  parallelism: 4,
};

const cipherName = "aes-256-gcm";
const kekBytes = 32;

/**
 * The bytes of a new slot that opens `ring` with `secret`. The slot is opened again before it is
 * returned: a slot that does not open is a vault lost.
 */
export async function sealSlot(
  ring: KeyRing,
  secret: KeySecret,
  options: { readonly random: RandomSource; readonly cost?: Argon2Cost },
): Promise<Uint8Array> {
  const salt = options.random.bytes(slotSaltBytes);
  const kdf: SlotKdf =
    secret.type === "key-file"
      ? { name: "hkdf-sha256", salt }
      : { name: "argon2id", salt, ...(options.cost ?? argon2CostDefault) };
  const frame: SlotFrame = { vaultId: ring.vaultId, type: secret.type, kdf };
  const nonce = options.random.bytes(slotNonceBytes);
  const kek = await deriveKek(secret, kdf);
  const plain = encodeKeyEpochs(ring.epochs);
  const cipher = createCipheriv(cipherName, kek, nonce).setAAD(encodeSlotFrame(frame));
  const sealed = concatBytes([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  kek.fill(0);
  plain.fill(0);
  const bytes = encodeKeySlot({ ...frame, nonce, sealed });
  const opened = await openSlot(parseKeySlot(bytes), secret);
  assert(
    opened?.epochs.length === ring.epochs.length,
    "a slot opens with the secret it was made for",
  );
  return bytes;
}

/**
 * The ring in `slot`; `undefined` where `secret` does not open it, which a damaged slot cannot be
 * told from. ObjectCorrupt (never) where it opens and what is sealed is no ring.
 */
export async function openSlot(slot: KeySlot, secret: KeySecret): Promise<KeyRing | undefined> {
  if (slot.type !== secret.type) return undefined;
  const tagAt = slot.sealed.byteLength - slotTagBytes;
  const kek = await deriveKek(secret, slot.kdf);
  const decipher = createDecipheriv(cipherName, kek, slot.nonce, { authTagLength: slotTagBytes })
    .setAAD(encodeSlotFrame(slot))
    .setAuthTag(slot.sealed.subarray(tagAt));
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
  return { vaultId: slot.vaultId, epochs };
}

async function deriveKek(secret: KeySecret, kdf: SlotKdf): Promise<Uint8Array> {
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

/** Runs in the thread pool of Node, so that nothing else waits for it. */
function runArgon2id(parameters: Argon2Parameters): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    argon2("argon2id", parameters, (error, key) => {
      if (error === null) resolve(key);
      else reject(error);
    });
  });
}
