/**
 * One version of a key of the local provider, as it lies in its file: one line of JSON with a check,
 * so that a cut or changed file is told from a key that does not fit.
 */
import { createHash } from "node:crypto";

import { toHex } from "#base/bytes.ts";
import { JsonMembers } from "#formats/strict-json.ts";
import type { ProviderKeyType } from "#ports/key-provider.ts";

/** A key's material. A secret: never logged. */
export interface LocalKeyMaterial {
  readonly type: ProviderKeyType;
  /** PKCS #8 in DER for RSA, 32 bytes for AES. */
  readonly material: Uint8Array;
}

/** Most bytes of such a file: RSA of 4,096 bits takes less than 6 KiB. */
export const localKeyBytesMax = 16 * 1024;

const format = "kluis-local-key";

/** The content of a version's file. */
export function encodeLocalKey(key: LocalKeyMaterial): Uint8Array {
  const material = toHex(key.material);
  const members = { format, version: 1, type: key.type, material, check: checkOf(material) };
  return new TextEncoder().encode(`${JSON.stringify(members)}\n`);
}

/** Parses what {@link encodeLocalKey} wrote. ObjectCorrupt (never). */
export function parseLocalKey(bytes: Uint8Array): LocalKeyMaterial {
  const members = JsonMembers.parse(bytes, { bytesMax: localKeyBytesMax }, "local key");
  const type = members.text("type");
  if (members.text("format") !== format || (type !== "RSA" && type !== "AES")) {
    throw members.corrupt("it is not one");
  }
  members.integer("version", 1, 1);
  const [min, max] = type === "AES" ? [32, 32] : [1000, 4096];
  const material = members.hex("material", min, max);
  if (members.text("check") !== checkOf(toHex(material))) throw members.corrupt("it is damaged");
  return { type, material };
}

function checkOf(material: string): string {
  return createHash("sha256").update(`kluis/local-key/${material}`).digest("hex").slice(0, 8);
}
