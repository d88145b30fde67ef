/**
 * Key records: which slots of a vault are valid, and its whole key ring boxed for each of them;
 * docs/design/vault-format.md §3.2.
 *
 * Pure text: sealing, opening and checking of MACs is the vault's. The checksum at the end covers
 * every byte before it, so that damage shows without a key.
 */
import { createHash } from "node:crypto";

import { assert } from "#base/assert.ts";
import { asBuffer, bytesEqual, compareBytes, concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { slotPublicKeyBytes, slotTagBytes } from "#formats/key-slot.ts";
import { type KeyRecordId, keyRecordsMax, sha256Bytes } from "#formats/store-names.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { vaultIdBytes } from "#formats/vault-header.ts";

/** Most bytes of a record: 32 boxes of 256 epochs each. */
export const keyRecordBytesMax = 1024 * 1024;
/** Most slots that a record lists. */
export const recordSlotsMax = 32;
/** Bytes of a record's MAC. */
export const recordMacBytes = 32;

const format = "kluis-key-record";
const recordVersion = 1;
const boxBytesMax = 12 * 1024;
const epochMax = 2 ** 32 - 1;
const checksumStart = `,"sha256":"`;
const tailBytes = checksumStart.length + 2 * sha256Bytes + `"}\n`.length;

/** A slot that is valid, and the ring boxed for it. */
export interface RecordSlot {
  /** SHA-256 of the slot, 32 bytes: the name of its object. */
  readonly slot: Uint8Array;
  /** 32 bytes, as in the slot. */
  readonly publicKey: Uint8Array;
  /** Ciphertext and tag of the key ring. */
  readonly box: Uint8Array;
}

/** The part of a record that its MAC covers. */
export interface RecordBody {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  /** From 1 on, each once. */
  readonly number: number;
  /** The newest epoch of the ring; its key makes the MAC. */
  readonly epoch: number;
  /** X25519, 32 bytes: the sender's half of every box, made for this record alone. */
  readonly senderKey: Uint8Array;
  /** Ascending by `slot`, each once; at least one. */
  readonly slots: readonly RecordSlot[];
}

/** One key record. */
export interface KeyRecord extends RecordBody {
  /** 32 bytes. */
  readonly mac: Uint8Array;
}

/** What the MAC of a record covers: the encoding of `body` alone. */
export function encodeRecordBody(body: RecordBody): Uint8Array {
  return encodeJsonLine(bodyMembers(body));
}

/** The one encoding of `record`. */
export function encodeKeyRecord(record: KeyRecord): Uint8Array {
  assert(record.mac.byteLength === recordMacBytes, "a MAC has 32 bytes");
  const line = asBuffer(encodeJsonLine({ ...bodyMembers(record), mac: toHex(record.mac) }));
  // The line ends in `}` and a line end; the checksum takes their place and puts them behind itself.
  const body = line.subarray(0, -2);
  return concatBytes([body, encodeTail(body)]);
}

/**
 * Parses a key record.
 *
 * Errors: ObjectCorrupt (never); StoreFormatNewer (after-change) for a record of a newer version.
 */
export function parseKeyRecord(bytes: Uint8Array): KeyRecord {
  const members = JsonMembers.parse(bytes, { bytesMax: keyRecordBytesMax }, "key record");
  const text = asBuffer(bytes);
  const body = text.subarray(0, Math.max(0, text.byteLength - tailBytes));
  const isWhole = bytesEqual(text.subarray(body.byteLength), encodeTail(body));
  if (!isWhole) throw members.corrupt("its checksum is wrong");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > recordVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot read a key record: its format is version ${version}, this program knows ${recordVersion}`,
    );
  }
  const record: KeyRecord = {
    vaultId: members.hex("vaultId", vaultIdBytes),
    number: members.integer("number", 1, keyRecordsMax),
    epoch: members.integer("epoch", 1, epochMax),
    senderKey: members.hex("senderKey", slotPublicKeyBytes),
    slots: members.list("slots", recordSlotsMax).map((item) => ({
      slot: item.hex("slot", sha256Bytes),
      publicKey: item.hex("publicKey", slotPublicKeyBytes),
      box: item.hex("box", slotTagBytes + 1, boxBytesMax),
    })),
    mac: members.hex("mac", recordMacBytes),
  };
  const slots = record.slots.map(({ slot }) => slot);
  if (slots.length === 0 || !isAscending(slots)) {
    throw members.corrupt("its slots are out of order");
  }
  if (!bytesEqual(bytes, encodeKeyRecord(record))) throw members.corrupt("it is out of form");
  return record;
}

/**
 * What is wrong with a key record of that place; `undefined` where it is whole, or a newer version's.
 * Needs no key.
 */
export function keyRecordDamage(bytes: Uint8Array, id: KeyRecordId): string | undefined {
  try {
    const { vaultId, number } = parseKeyRecord(bytes);
    if (toHex(vaultId) === id.vault && number === id.number) return undefined;
    return "it is the record of another place";
  } catch (error) {
    if (isKluisError(error, "ObjectCorrupt")) return error.message;
    if (isKluisError(error, "StoreFormatNewer")) return undefined;
    throw error;
  }
}

function bodyMembers(body: RecordBody): Record<string, unknown> {
  const { vaultId, number, epoch, senderKey, slots } = body;
  assert(vaultId.byteLength === vaultIdBytes, "a vault id has 16 bytes");
  assert(number >= 1 && number <= keyRecordsMax, "the number of a key record");
  assert(senderKey.byteLength === slotPublicKeyBytes, "a public key has 32 bytes");
  assert(slots.length >= 1 && slots.length <= recordSlotsMax, "a vault has 1 to 32 slots");
  assert(isAscending(slots.map(({ slot }) => slot)), "slots ascend");
  return {
    format,
    version: recordVersion,
    vaultId: toHex(vaultId),
    number,
    epoch,
    senderKey: toHex(senderKey),
    slots: slots.map(({ slot, publicKey, box }) => ({
      slot: toHex(slot),
      publicKey: toHex(publicKey),
      box: toHex(box),
    })),
  };
}

function encodeTail(body: Uint8Array): Uint8Array {
  const checksum = createHash("sha256").update(body).digest("hex");
  return Buffer.from(`${checksumStart}${checksum}"}\n`, "latin1");
}

function isAscending(hashes: readonly Uint8Array[]): boolean {
  return hashes.every((hash, at) => {
    const before = hashes[at - 1];
    return before === undefined || compareBytes(before, hash) < 0;
  });
}
