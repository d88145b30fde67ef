/** The manifest of a recovery point: JSON in one frame; docs/design/vault-format.md §7. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { fromHex, toHex } from "#base/bytes.ts";
import { diskBytesMax, idBytes, windowPages } from "#formats/geometry.ts";

const disksMax = 1024;
const textCharactersMax = 4096;
const levelMax = 16;

/** How a disk's changes were found: everything, a difference of snapshots, checksums. */
export type ChangeTracking = "full" | "snapshot-difference" | "dirty-bitmap" | "checksum";

/** One disk of a recovery point. */
export interface ManifestDisk {
  readonly name: string;
  readonly sizeBytes: number;
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
  /** Bytes that this content takes in packs, compressed and sealed. */
  readonly storedBytes: number;
  /** Bytes, in windows, that were stored again because the vault had lost or damaged them. */
  readonly healedBytes?: number;
  /** What identifies the source of this content, for the next increment; opaque to the vault. */
  readonly source?: string;
  /** Where the sweep that stores fragmented windows anew goes on; docs/adr/0005-rewrite-rule.md. */
  readonly rewrite?: { readonly cursor: number; readonly creditPages: number };
}

/** A recovery point as committed. */
export interface Manifest {
  readonly pointId: string;
  readonly itemId: string;
  readonly itemName: string;
  readonly takenAtMs: number;
  readonly committedAtMs: number;
  readonly consistency: "file-system" | "crash";
  readonly consistencyReason?: string;
  readonly frozenMs?: number;
  /** The point this one was made from, where it is an increment. */
  readonly basePointId?: string;
  /** The snapshot on the host that holds this instant; base of the next increment. */
  readonly snapshotId?: string;
  /** Configuration of the VM, as its hypervisor's driver wrote it; opaque to the vault. */
  readonly vmConfiguration?: string;
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
  const fields = new Fields(parseJson(bytes, objectName), objectName);
  const disks = fields
    .list("disks", disksMax)
    .map((disk) => parseDisk(new Fields(disk, objectName)));
  if (new Set(disks.map(({ name }) => name)).size !== disks.length) throw fields.wrong("disks");
  const consistency = fields.text("consistency");
  if (consistency !== "file-system" && consistency !== "crash") throw fields.wrong("consistency");
  return {
    pointId: fields.text("pointId"),
    itemId: fields.text("itemId"),
    itemName: fields.text("itemName"),
    takenAtMs: fields.number("takenAtMs"),
    committedAtMs: fields.number("committedAtMs"),
    consistency,
    ...fields.optionalText("consistencyReason"),
    ...fields.optionalNumber("frozenMs"),
    ...fields.optionalText("basePointId"),
    ...fields.optionalText("snapshotId"),
    ...fields.optionalText("vmConfiguration", 1024 * 1024),
    disks,
  };
}

function parseDisk(fields: Fields): ManifestDisk {
  const tracking = fields.text("tracking");
  if (!isTracking(tracking)) throw fields.wrong("tracking");
  const sizeBytes = fields.number("sizeBytes");
  const level = fields.number("level");
  if (sizeBytes > diskBytesMax) throw fields.wrong("sizeBytes");
  if (level > levelMax) throw fields.wrong("level");
  return {
    name: fields.text("name"),
    sizeBytes,
    root: fields.optionalId("root"),
    level,
    tracking,
    ...fields.optionalText("trackingReason"),
    mappedBytes: fields.number("mappedBytes"),
    examinedBytes: fields.number("examinedBytes"),
    changedBytes: fields.number("changedBytes"),
    newBytes: fields.number("newBytes"),
    storedBytes: fields.number("storedBytes"),
    ...fields.optionalNumber("healedBytes"),
    ...fields.optionalText("source"),
    ...parseRewrite(fields),
  };
}

function parseRewrite(fields: Fields): Pick<ManifestDisk, "rewrite"> {
  const rewrite = fields.optionalFields("rewrite");
  if (rewrite === undefined) return {};
  const creditPages = rewrite.number("creditPages");
  if (creditPages >= windowPages) throw fields.wrong("rewrite");
  return { rewrite: { cursor: rewrite.number("cursor"), creditPages } };
}

function isTracking(text: string): text is ChangeTracking {
  return ["full", "snapshot-difference", "dirty-bitmap", "checksum"].includes(text);
}

function parseJson(bytes: Uint8Array, objectName: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    const details = { object: objectName };
    throw new KluisError("ObjectCorrupt", `Cannot read "${objectName}": it is not JSON`, {
      details,
      cause,
    });
  }
}

/** Checked access to the members of a JSON object. */
class Fields {
  readonly #members: Readonly<Record<string, unknown>>;
  readonly #objectName: string;

  constructor(value: unknown, objectName: string) {
    this.#objectName = objectName;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw this.wrong("object");
    }
    this.#members = value as Record<string, unknown>;
  }

  text(name: string, charactersMax = textCharactersMax): string {
    const value = this.#members[name];
    if (typeof value !== "string" || value.length > charactersMax) throw this.wrong(name);
    return value;
  }

  /** A safe integer of 0 or more. */
  number(name: string): number {
    const value = this.#members[name];
    const isNatural = Number.isSafeInteger(value) && (value as number) >= 0;
    if (typeof value !== "number" || !isNatural || Object.is(value, -0)) {
      throw this.wrong(name);
    }
    return value;
  }

  list(name: string, lengthMax: number): readonly unknown[] {
    const value = this.#members[name];
    if (!Array.isArray(value) || value.length > lengthMax) throw this.wrong(name);
    return value;
  }

  optionalText<Name extends string>(
    name: Name,
    charactersMax = textCharactersMax,
  ): { readonly [Key in Name]?: string } {
    if (this.#members[name] === undefined) return {};
    return { [name]: this.text(name, charactersMax) } as { [Key in Name]: string };
  }

  optionalNumber<Name extends string>(name: Name): { readonly [Key in Name]?: number } {
    if (this.#members[name] === undefined) return {};
    return { [name]: this.number(name) } as { [Key in Name]: number };
  }

  optionalFields(name: string): Fields | undefined {
    const value = this.#members[name];
    return value === undefined ? undefined : new Fields(value, this.#objectName);
  }

  optionalId(name: string): Uint8Array | undefined {
    if (this.#members[name] === null) return undefined;
    const id = fromHex(this.text(name));
    if (id?.byteLength !== idBytes) throw this.wrong(name);
    return id;
  }

  wrong(name: string): KluisError {
    return new KluisError(
      "ObjectCorrupt",
      `Cannot read "${this.#objectName}": its member "${name}" is not valid`,
      { details: { object: this.#objectName, member: name } },
    );
  }
}
