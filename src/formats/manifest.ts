/** The manifest of a recovery point: JSON in one frame; docs/design/vault-format.md §7. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { toHex } from "#base/bytes.ts";
import { diskBytesMax, idBytes, windowPages } from "#formats/geometry.ts";
import { JsonMembers } from "#formats/strict-json.ts";

const disksMax = 1024;
const manifestBytesMax = 64 * 1024 * 1024;
const textCharactersMax = 4096;
const configurationCharactersMax = 1024 * 1024;
const evidenceCharactersMax = 64 * 1024;
const consistencies = ["application", "file-system", "crash"] as const;
const levelMax = 16;

/** How a disk's changes were found: everything, a difference of snapshots, checksums. */
export type ChangeTracking = "full" | "snapshot-difference" | "dirty-bitmap" | "checksum";

/** One disk of a recovery point. */
export interface ManifestDisk {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whether it was encrypted on its host, so that a restore must not leave it in the clear unasked. */
  readonly isEncrypted?: boolean;
  /** Root of the map, 24 bytes; `undefined` where the disk is all zeros. */
  readonly root: Uint8Array | undefined;
  /** Level of the root; 0 for a leaf. */
  readonly level: number;
  readonly tracking: ChangeTracking;
  /** Why a better method of change tracking was not used. */
  readonly trackingReason?: string;
  /** Bytes that are not zeros, in windows of 256 KiB as mapped. */
  readonly mappedBytes: number;
  /** Bytes read from the disk to find the changes. */
  readonly examinedBytes: number;
  /**
   * Bytes that differ from the base point, by pages of 4 KiB; by windows of 256 KiB where all of one
   * is named as changed or became zeros (for a full read: windows that are not zeros).
   */
  readonly changedBytes: number;
  /** Bytes of content that the vault did not have. */
  readonly newBytes: number;
  /** Bytes, and ranges, in which the record of changes or the comparison says the disk may differ. */
  readonly namedBytes?: number;
  readonly namedRanges?: number;
  /** Bytes that this content takes in packs, compressed and sealed. */
  readonly storedBytes: number;
  /** Bytes, in windows, that were stored again because the vault had lost or damaged them. */
  readonly healedBytes?: number;
  /** What identifies the source of this content, for the next increment; opaque to the vault. */
  readonly source?: string;
  /** Where the sweep that stores fragmented windows anew goes on; docs/adr/0005-rewrite-rule.md. */
  readonly rewrite?: { readonly cursor: number; readonly creditPages: number };
}

/** Where the time of a backup went, in whole milliseconds. */
export interface ManifestTiming {
  /** Before the snapshot: configuration, room, what the guest needs. */
  readonly preparationMs: number;
  /** The snapshot, the time that the guest was frozen included. */
  readonly snapshotMs: number;
  /** Finding out what changed. */
  readonly changesMs: number;
  /** Reading, packing and storing, up to the commit. */
  readonly transferMs: number;
}

/** A recovery point as committed. */
export interface Manifest {
  readonly pointId: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly takenAtMs: number;
  readonly committedAtMs: number;
  readonly consistency: (typeof consistencies)[number];
  readonly consistencyReason?: string;
  /** What the consistency rests on, as JSON of whoever took the instant; opaque to the vault. */
  readonly consistencyEvidence?: string;
  readonly frozenMs?: number;
  /** The point this one was made from, where it is an increment. */
  readonly basePointId?: string;
  /** The snapshot on the host that holds this instant; base of the next increment. */
  readonly snapshotId?: string;
  /** Configuration of the VM, as its hypervisor's driver wrote it; opaque to the vault. */
  readonly vmConfiguration?: string;
  readonly timing?: ManifestTiming;
  readonly disks: readonly ManifestDisk[];
}

/**
 * The bytes of a manifest. ArgumentInvalid (after-change) names the member that no parser would
 * take: a point that cannot be read back must not be committed.
 */
export function encodeManifest(manifest: Manifest): Uint8Array {
  const disks = manifest.disks.map((disk) => ({
    ...disk,
    root: disk.root === undefined ? null : toHex(disk.root),
  }));
  const bytes = new TextEncoder().encode(JSON.stringify({ ...manifest, disks }));
  try {
    parseManifest(bytes, "new manifest");
  } catch (cause) {
    const member = isKluisError(cause) ? cause.details["member"] : undefined;
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot write recovery point "${manifest.pointId}": its member "${member ?? ""}" is not valid`,
      { cause },
    );
  }
  return bytes;
}

/** Parses a manifest; ObjectCorrupt (never) names the member that is out of form. */
export function parseManifest(bytes: Uint8Array, objectName: string): Manifest {
  const members = JsonMembers.parse(bytes, { bytesMax: manifestBytesMax }, { objectName });
  const disks = members.list("disks", disksMax).map(parseDisk);
  if (new Set(disks.map(({ name }) => name)).size !== disks.length) throw invalid(members, "disks");
  const word = textOf(members, "consistency");
  const consistency = consistencies.find((candidate) => candidate === word);
  if (consistency === undefined) throw invalid(members, "consistency");
  return {
    pointId: textOf(members, "pointId"),
    itemId: textOf(members, "itemId"),
    itemName: textOf(members, "itemName"),
    takenAtMs: numberOf(members, "takenAtMs"),
    committedAtMs: numberOf(members, "committedAtMs"),
    consistency,
    ...optional(members, "consistencyReason", textOf),
    ...optional(members, "consistencyEvidence", (own, name) =>
      own.text(name, evidenceCharactersMax),
    ),
    ...optional(members, "frozenMs", numberOf),
    ...optional(members, "basePointId", textOf),
    ...optional(members, "snapshotId", textOf),
    ...optional(members, "vmConfiguration", (own, name) =>
      own.text(name, configurationCharactersMax),
    ),
    ...optional(members, "timing", parseTiming),
    disks,
  };
}

function parseDisk(members: JsonMembers): ManifestDisk {
  const tracking = textOf(members, "tracking");
  if (!isTracking(tracking)) throw invalid(members, "tracking");
  return {
    name: textOf(members, "name"),
    sizeBytes: members.integer("sizeBytes", 0, diskBytesMax),
    ...optional(members, "isEncrypted", (own, name) => own.boolean(name)),
    root: members.isNull("root") ? undefined : members.hex("root", idBytes),
    level: members.integer("level", 0, levelMax),
    tracking,
    ...optional(members, "trackingReason", textOf),
    mappedBytes: numberOf(members, "mappedBytes"),
    examinedBytes: numberOf(members, "examinedBytes"),
    changedBytes: numberOf(members, "changedBytes"),
    newBytes: numberOf(members, "newBytes"),
    storedBytes: numberOf(members, "storedBytes"),
    ...optional(members, "namedBytes", numberOf),
    ...optional(members, "namedRanges", numberOf),
    ...optional(members, "healedBytes", numberOf),
    ...optional(members, "source", textOf),
    ...optional(members, "rewrite", parseRewrite),
  };
}

function parseTiming(manifest: JsonMembers, name: string): ManifestTiming {
  const members = manifest.members(name);
  return {
    preparationMs: numberOf(members, "preparationMs"),
    snapshotMs: numberOf(members, "snapshotMs"),
    changesMs: numberOf(members, "changesMs"),
    transferMs: numberOf(members, "transferMs"),
  };
}

function parseRewrite(disk: JsonMembers, name: string): NonNullable<ManifestDisk["rewrite"]> {
  const members = disk.members(name);
  const creditPages = members.integer("creditPages", 0, windowPages - 1);
  return { cursor: numberOf(members, "cursor"), creditPages };
}

function isTracking(text: string): text is ChangeTracking {
  return ["full", "snapshot-difference", "dirty-bitmap", "checksum"].includes(text);
}

function textOf(members: JsonMembers, name: string): string {
  return members.text(name, textCharactersMax);
}

function numberOf(members: JsonMembers, name: string): number {
  return members.integer(name, 0, Number.MAX_SAFE_INTEGER);
}

/** An object with the member, or without where there is none. */
function optional<Name extends string, T>(
  members: JsonMembers,
  name: Name,
  read: (members: JsonMembers, name: string) => T,
): { readonly [Key in Name]?: T } {
  if (!members.has(name)) return {};
  return { [name]: read(members, name) } as { [Key in Name]: T };
}

function invalid(members: JsonMembers, name: string): KluisError {
  return members.wrong(name, "is not valid");
}
