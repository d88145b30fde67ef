/**
 * `vault.json`, the object that makes a place a vault; docs/design/vault-format.md §2.1.
 *
 * Its checksum covers every byte before the member `sha256`, in every version, so that a damaged
 * header is never taken for one of a newer version or for somebody else's file.
 */
import { createHash } from "node:crypto";

import { assert } from "#base/assert.ts";
import { asBuffer, bytesEqual, concatBytes, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { JsonMembers } from "#formats/strict-json.ts";

/** The version that this program writes and the highest that it reads. */
export const vaultVersion = 1;
/** Bytes of a vault id. */
export const vaultIdBytes = 16;
/** Most bytes of a header, of any version. */
export const vaultHeaderBytesMax = 4096;

/** What `vault.json` says. */
export interface VaultHeader {
  readonly version: number;
  /** 16 random bytes. */
  readonly vaultId: Uint8Array;
}

const head = Buffer.from(`{"format":"kluis-vault","version":`, "latin1");
const checksumStart = Buffer.from(`,"sha256":"`, "latin1");
const tailBytes = checksumStart.byteLength + 64 + `"}\n`.length;

/** The one encoding of `header`, in version 1. */
export function encodeVaultHeader(header: VaultHeader): Uint8Array {
  assert(header.version === vaultVersion, "headers are written in this program's version");
  assert(header.vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  const body = asBuffer(
    concatBytes([
      head,
      Buffer.from(`${header.version},"vaultId":"${toHex(header.vaultId)}"`, "latin1"),
    ]),
  );
  return concatBytes([body, encodeTail(body)]);
}

/**
 * Parses `vault.json`.
 *
 * Errors: StoreForeign (after-change) where it is no header of ours, ObjectCorrupt (never) where it
 * is one that was damaged, StoreFormatNewer (after-change) where a newer version wrote it.
 */
export function parseVaultHeader(bytes: Uint8Array): VaultHeader {
  const what = "vault header";
  const text = asBuffer(bytes);
  const body = text.subarray(0, Math.max(0, text.byteLength - tailBytes));
  const tail = text.subarray(body.byteLength);
  const isWhole = bytes.byteLength <= vaultHeaderBytesMax && bytesEqual(tail, encodeTail(body));
  const isOurs = text.subarray(0, head.byteLength).equals(head);
  if (!isWhole) {
    // One damaged place leaves either the head or the mark of the checksum as it was.
    const isMarked = tail.subarray(0, checksumStart.byteLength).equals(checksumStart);
    if (!isOurs && !isMarked) throw foreignHeader();
    throw new KluisError("ObjectCorrupt", "Cannot read vault.json: its checksum is wrong");
  }
  if (!isOurs) throw foreignHeader();
  const members = JsonMembers.parse(bytes, { bytesMax: vaultHeaderBytesMax }, what);
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > vaultVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot use this vault: its format is version ${version}, this program knows ${vaultVersion}`,
      { details: { version, versionMax: vaultVersion } },
    );
  }
  const header = { version, vaultId: members.hex("vaultId", vaultIdBytes) };
  if (!bytesEqual(bytes, encodeVaultHeader(header))) throw members.corrupt("it is out of form");
  return header;
}

function encodeTail(body: Uint8Array): Uint8Array {
  const checksum = createHash("sha256").update(body).digest("hex");
  return concatBytes([checksumStart, Buffer.from(`${checksum}"}\n`, "latin1")]);
}

function foreignHeader(): KluisError {
  return new KluisError(
    "StoreForeign",
    "Cannot use this place: its vault.json is not one of Kluis",
  );
}
