/**
 * What opens a vault: a passphrase, a recovery key or a key file, in the form that key slots take.
 * Secrets are bytes in memory; they are never logged or put into an error.
 */
import type { RandomSource } from "#base/random.ts";
import { KluisError } from "#base/kluis-error.ts";
import { encodeKeyFile, keyFileSecretBytes, parseKeyFile } from "#formats/key-file.ts";
import type { SlotType } from "#formats/key-slot.ts";
import { formatRecoveryKey, parseRecoveryKey, recoveryKeyBytes } from "#formats/recovery-key.ts";

/** Longest passphrase in bytes of UTF-8. */
export const passphraseBytesMax = 1024;

/** A secret and the type of the slots that it may open. */
export interface KeySecret {
  readonly type: SlotType;
  /** The passphrase in UTF-8 (NFC), the 20 bytes of a recovery key, or the 32 of a key file. */
  readonly material: Uint8Array;
}

/**
 * The secret of a passphrase; composed and decomposed letters are the same.
 *
 * Errors: ArgumentInvalid (after-change) where it is empty, too long or no Unicode text.
 */
export function toPassphraseSecret(passphrase: string): KeySecret {
  if (!passphrase.isWellFormed()) throw unusable("it is not valid Unicode");
  const material = new TextEncoder().encode(passphrase.normalize("NFC"));
  if (material.byteLength === 0) throw unusable("it is empty");
  if (material.byteLength > passphraseBytesMax) {
    throw unusable(`it is longer than ${passphraseBytesMax} bytes`);
  }
  return { type: "passphrase", material };
}

/** The secret of a recovery key as a person typed it; ArgumentInvalid (after-change) on a typing error. */
export function toRecoverySecret(typed: string): KeySecret {
  return { type: "recovery", material: parseRecoveryKey(typed) };
}

/** The secret in the text of a key file; ArgumentInvalid (after-change) where it holds none. */
export function toKeyFileSecret(text: Uint8Array): KeySecret {
  return { type: "key-file", material: parseKeyFile(text) };
}

/** A fresh recovery key: `printed` is shown to the user once and kept nowhere. */
export function createRecoveryKey(random: RandomSource): { secret: KeySecret; printed: string } {
  const material = random.bytes(recoveryKeyBytes);
  return { secret: { type: "recovery", material }, printed: formatRecoveryKey(material) };
}

/** A fresh key file: `text` is what the file of mode 0600 holds. */
export function createKeyFileSecret(random: RandomSource): { secret: KeySecret; text: Uint8Array } {
  const material = random.bytes(keyFileSecretBytes);
  return { secret: { type: "key-file", material }, text: encodeKeyFile(material) };
}

function unusable(reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot use the passphrase: ${reason}`);
}
