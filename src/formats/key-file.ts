/**
 * The text of a key file: one line with 256 random bits and a check, so that a cut or damaged file
 * is told from a key of another vault.
 */
import { createHash } from "node:crypto";

import { assert } from "#base/assert.ts";
import { asBuffer, bytesEqual, fromHex, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Bytes of the secret. */
export const keyFileSecretBytes = 32;

const pattern = /^kluis-key-v1 ([0-9a-f]{64}) ([0-9a-f]{8})\n?$/;

/** The text for a secret of 32 bytes. */
export function encodeKeyFile(secret: Uint8Array): Uint8Array {
  assert(secret.byteLength === keyFileSecretBytes, "a key file holds 32 bytes");
  return new TextEncoder().encode(`kluis-key-v1 ${toHex(secret)} ${check(secret)}\n`);
}

/** The secret of a key file; ArgumentInvalid (after-change) where the text is not one. */
export function parseKeyFile(text: Uint8Array): Uint8Array {
  const [, secretText, checkText] = pattern.exec(asBuffer(text).toString("latin1")) ?? [];
  const secret = secretText === undefined ? undefined : fromHex(secretText);
  if (secret === undefined || checkText === undefined) {
    throw new KluisError("ArgumentInvalid", "Cannot use the key file: it holds no Kluis key");
  }
  if (!bytesEqual(Buffer.from(checkText, "latin1"), Buffer.from(check(secret), "latin1"))) {
    throw new KluisError("ArgumentInvalid", "Cannot use the key file: it is damaged");
  }
  return secret;
}

function check(secret: Uint8Array): string {
  const digest = createHash("sha256").update("kluis/v1/key-file-check").update(secret).digest();
  return toHex(digest.subarray(0, 4));
}
