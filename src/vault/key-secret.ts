/**
 * What opens a vault: a passphrase, a recovery key, a key file, or a key that a provider holds.
 * Secrets are bytes in memory; they are never logged or put into an error.
 */
import type { RandomSource } from "#base/random.ts";
import { KluisError } from "#base/kluis-error.ts";
import { encodeKeyFile, keyFileSecretBytes, parseKeyFile } from "#formats/key-file.ts";
import type { ProvidedSlotType, SlotType } from "#formats/key-slot.ts";
import { formatRecoveryKey, parseRecoveryKey, recoveryKeyBytes } from "#formats/recovery-key.ts";
import type { KeyProvider } from "#ports/key-provider.ts";

/** Longest passphrase in bytes of UTF-8. */
export const passphraseBytesMax = 1024;

/** What opens a slot. */
export type KeySecret = HeldSecret | ProvidedSecret;

/** A key of a provider, which wraps the KEK of a slot and unwraps it. */
export interface ProvidedSecret {
  readonly type: ProvidedSlotType;
  /** As `KeyProvider` takes it; without a version its slots follow the newest one. */
  readonly key: string;
  readonly provider: KeyProvider;
}

/** A secret in our hands and the type of the slots that it may open. */
export interface HeldSecret {
  readonly type: Exclude<SlotType, ProvidedSlotType>;
  /** The passphrase in UTF-8 (NFC), the 20 bytes of a recovery key, or the 32 of a key file. */
  readonly material: Uint8Array;
}

/**
 * The secret of a passphrase; composed and decomposed letters are the same.
 *
 * Errors: ArgumentInvalid (after-change) where it is empty, too long or no Unicode text.
 */
export function toPassphraseSecret(passphrase: string): HeldSecret {
  if (!passphrase.isWellFormed()) throw unusable("it is not valid Unicode");
  const material = new TextEncoder().encode(passphrase.normalize("NFC"));
  if (material.byteLength === 0) throw unusable("it is empty");
  if (material.byteLength > passphraseBytesMax) {
    throw unusable(`it is longer than ${passphraseBytesMax} bytes`);
  }
  return { type: "passphrase", material };
}

/** The secret of a recovery key as a person typed it; ArgumentInvalid (after-change) on a typing error. */
export function toRecoverySecret(typed: string): HeldSecret {
  return { type: "recovery", material: parseRecoveryKey(typed) };
}

/** The secret in the text of a key file; ArgumentInvalid (after-change) where it holds none. */
export function toKeyFileSecret(text: Uint8Array): HeldSecret {
  return { type: "key-file", material: parseKeyFile(text) };
}

/** A fresh recovery key: `printed` is shown to the user once and kept nowhere. */
export function createRecoveryKey(random: RandomSource): { secret: HeldSecret; printed: string } {
  const material = random.bytes(recoveryKeyBytes);
  return { secret: { type: "recovery", material }, printed: formatRecoveryKey(material) };
}

/** A fresh key file: `text` is what the file of mode 0600 holds. */
export function createKeyFileSecret(random: RandomSource): {
  secret: HeldSecret;
  text: Uint8Array;
} {
  const material = random.bytes(keyFileSecretBytes);
  return { secret: { type: "key-file", material }, text: encodeKeyFile(material) };
}

/** Whether a key provider holds what opens the slot. */
export function isProvided(secret: KeySecret): secret is ProvidedSecret {
  return "provider" in secret;
}

function unusable(reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot use the passphrase: ${reason}`);
}
