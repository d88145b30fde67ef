/** `secondary.json`, which says that a vault follows another store; docs/design/vault-format.md §2.2. */
import { assert } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";

/** Most bytes of the object. */
export const secondaryMarkerBytesMax = 4096;

const format = "kluis-secondary";
const markerVersion = 1;

/** The one encoding of the marker of a vault; its id has 16 bytes. */
export function encodeSecondaryMarker(vaultId: Uint8Array): Uint8Array {
  assert(vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  return encodeJsonLine({ format, version: markerVersion, vaultId: toHex(vaultId) });
}

/**
 * The vault id, 16 bytes, in a marker. ObjectCorrupt (never); StoreFormatNewer (after-change) for
 * one of a newer version.
 */
export function parseSecondaryMarker(bytes: Uint8Array): Uint8Array {
  const members = JsonMembers.parse(bytes, { bytesMax: secondaryMarkerBytesMax }, "secondary.json");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > markerVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot use this secondary: its marker is version ${version}, this program knows ${markerVersion}`,
    );
  }
  const vaultId = members.hex("vaultId", vaultIdBytes);
  if (!bytesEqual(bytes, encodeSecondaryMarker(vaultId)))
    throw members.corrupt("it is out of form");
  return vaultId;
}
