/**
 * The printable recovery key: 160 random bits as 8 groups of 4 letters and a check group, in the
 * alphabet of Crockford's base 32, which has no letter that is easily taken for another.
 */
import { createHash } from "node:crypto";

import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Bytes of the secret. */
export const recoveryKeyBytes = 20;

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const foreignLetter = /[^0-9A-HJKMNP-TV-Z]/;
const groupLetters = 4;
const groups = 9;
const typedCharsMax = 256;

/** The key as it is printed: `ABCD-…`, 44 characters. `secret` is 20 bytes. */
export function formatRecoveryKey(secret: Uint8Array): string {
  assert(secret.byteLength === recoveryKeyBytes, "a recovery key has 20 bytes");
  const letters = toLetters(secret) + checkGroup(secret);
  const parts: string[] = [];
  for (let at = 0; at < letters.length; at += groupLetters) {
    parts.push(letters.slice(at, at + groupLetters));
  }
  return parts.join("-");
}

/**
 * The secret of a key that a person typed: case, blanks and hyphens do not count, and the letters
 * I, L and O are read as the digits they look like.
 *
 * Errors: ArgumentInvalid (after-change), which names the group where that can be told, and never
 * repeats what was typed. A typing error passes with a chance of one in a million.
 */
export function parseRecoveryKey(typed: string): Uint8Array {
  if (typed.length > typedCharsMax) throw typingError("it is too long");
  const letters = typed
    .toUpperCase()
    .replaceAll(/[\s-]/g, "")
    .replaceAll(/[IL]/g, "1")
    .replaceAll("O", "0");
  const foreignAt = letters.search(foreignLetter);
  if (foreignAt !== -1) {
    throw typingError(
      `group ${Math.floor(foreignAt / groupLetters) + 1} holds a letter no key has`,
    );
  }
  if (letters.length !== groups * groupLetters) {
    throw typingError(`it has ${letters.length} letters, not ${groups * groupLetters}`);
  }
  const secret = fromLetters(letters.slice(0, -groupLetters));
  if (letters.slice(-groupLetters) !== checkGroup(secret)) {
    throw typingError("its check group does not match, so a letter is wrong");
  }
  return secret;
}

/** 20 bits of a hash, so that every error in any group shows. */
function checkGroup(secret: Uint8Array): string {
  const digest = createHash("sha256").update("kluis/v1/recovery-key-check").update(secret).digest();
  return toLetters(digest.subarray(0, 5)).slice(0, groupLetters);
}

/** `bytes` (a multiple of 5) as letters of 5 bits, most significant first. */
function toLetters(bytes: Uint8Array): string {
  let letters = "";
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      letters += alphabet[(held >>> bits) & 31];
      held &= (1 << bits) - 1;
    }
  }
  assert(bits === 0, "letters hold whole groups of 5 bytes");
  return letters;
}

function fromLetters(letters: string): Uint8Array {
  const bytes = new Uint8Array((letters.length * 5) / 8);
  let at = 0;
  let bits = 0;
  let held = 0;
  for (const letter of letters) {
    held = (held << 5) | alphabet.indexOf(letter);
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes[at++] = held >>> bits;
    held &= (1 << bits) - 1;
  }
  return bytes;
}

function typingError(reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot use the recovery key: ${reason}`);
}
