/** `secondary.json`, which says that a vault follows another store; docs/design/vault-format.md §2.2. */
import { assert } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";

/** Most bytes of the object. */
export const secondaryMarkerBytesMax = 4096;

/** A secondary that goes on following, or a copy that becomes a vault of its own when all is there. */
export type SecondaryRole = "secondary" | "copy";

/** What `secondary.json` says. */
export interface SecondaryMarker {
  readonly role: SecondaryRole;
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
}

const format = "kluis-secondary";
const markerVersion = 1;

/** The one encoding of a marker. */
export function encodeSecondaryMarker({ role, vaultId }: SecondaryMarker): Uint8Array {
  assert(vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  return encodeJsonLine({ format, version: markerVersion, role, vaultId: toHex(vaultId) });
}

/** Parses a marker. ObjectCorrupt (never); StoreFormatNewer (after-change) for a newer version's. */
export function parseSecondaryMarker(bytes: Uint8Array): SecondaryMarker {
  const members = JsonMembers.parse(bytes, { bytesMax: secondaryMarkerBytesMax }, "secondary.json");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > markerVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot use this secondary: its marker is version ${version}, this program knows ${markerVersion}`,
    );
  }
  const role = members.text("role");
  if (role !== "secondary" && role !== "copy") throw members.corrupt("its role is unknown");
  const marker: SecondaryMarker = { role, vaultId: members.hex("vaultId", vaultIdBytes) };
  if (!bytesEqual(bytes, encodeSecondaryMarker(marker))) throw members.corrupt("it is out of form");
  return marker;
}
