/** What a host remembers of a vault, so that a store which is set back shows; docs/design/verify-and-heal.md. */
import { assert } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { ledgerNumberMax } from "#formats/ledger-part.ts";
import { keyRecordsMax } from "#formats/store-names.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";

/** Newest parts of the inventory that are remembered. */
export const rememberedPartsMax = 8;
/** Most bytes of such a file. */
export const vaultMemoryBytesMax = 4096;

/** An object that is known by its number and its content. */
export interface NumberedObject {
  readonly number: number;
  /** 32 bytes. */
  readonly sha256: Uint8Array;
}

/** What was seen last in a store. */
export interface VaultMemory {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  /** Newest parts of the inventory, the newest first. */
  readonly parts: readonly NumberedObject[];
  /** The newest key record. */
  readonly record?: NumberedObject;
}

const format = "kluis-vault-memory";
const memoryVersion = 1;
const hashBytes = 32;

/** The one encoding. */
export function encodeVaultMemory({ vaultId, parts, record }: VaultMemory): Uint8Array {
  assert(parts.length <= rememberedPartsMax, "few parts are remembered");
  return encodeJsonLine({
    format,
    version: memoryVersion,
    vaultId: toHex(vaultId),
    parts: parts.map(toJson),
    records: record === undefined ? [] : [toJson(record)],
  });
}

/** Parses a file of the memory. ObjectCorrupt (never); StoreFormatNewer (after-change). */
export function parseVaultMemory(bytes: Uint8Array): VaultMemory {
  const members = JsonMembers.parse(bytes, { bytesMax: vaultMemoryBytesMax }, "vault memory");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > memoryVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot use what this host remembers: it is version ${version}, this program knows ${memoryVersion}`,
    );
  }
  const [record] = members.list("records", 1).map((item) => fromJson(item, keyRecordsMax));
  const memory: VaultMemory = {
    vaultId: members.hex("vaultId", vaultIdBytes),
    parts: members.list("parts", rememberedPartsMax).map((item) => fromJson(item, ledgerNumberMax)),
    ...(record === undefined ? {} : { record }),
  };
  if (!bytesEqual(bytes, encodeVaultMemory(memory))) throw members.corrupt("it is out of form");
  return memory;
}

function toJson({ number, sha256 }: NumberedObject): Readonly<Record<string, unknown>> {
  return { number, sha256: toHex(sha256) };
}

function fromJson(item: JsonMembers, numberMax: number): NumberedObject {
  return { number: item.integer("number", 1, numberMax), sha256: item.hex("sha256", hashBytes) };
}
