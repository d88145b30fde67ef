/**
 * The record of a VM: which layers its disks have, which snapshots there are, and what was under
 * way. The one durable truth; see docs/design/qemu-driver.md. This file knows its form and no disk.
 */
import { createHash } from "node:crypto";

import { KluisError } from "#base/kluis-error.ts";
import { present } from "#base/assert.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { layersMax, type ConsistencyRecord, type SnapshotLabel } from "#ports/hypervisor.ts";
import type { FleeceDisk } from "#drivers/fleecing/fleece-graph.ts";
import type { DiskLayer } from "./disk-layer.ts";
import type { LayerFingerprint } from "./layer-fingerprint.ts";

/** Reads of old data slow down with every layer: 2.4 times at 30. */
export const LAYERS_MAX = layersMax;
/** Snapshots in a record; each has a layer of its own. */
export const SNAPSHOTS_MAX = LAYERS_MAX;
/** Far above 16 disks of 32 layers, and as many configurations of 1 MiB as there may be snapshots. */
export const RECORD_BYTES_MAX = 64 * 1024 * 1024;

const formatVersion = 1;

/** A layer and, once it is frozen, how it looked then. */
export interface LayerRecord extends DiskLayer {
  readonly frozen?: LayerFingerprint;
}

/** The layers of one disk, oldest first; the last is active. */
export interface DiskRecord {
  readonly name: string;
  /** As the description has it; the first layer's path is the same file without symbolic links. */
  readonly describedPath: string;
  /** How the configuration has named it, where that is not by the path. */
  readonly volume?: { readonly pool: string; readonly volume: string };
  /**
   * Begin of the paths of its layers, where they do not lie beside the original: that is a block
   * device then.
   */
  readonly layerStem?: string;
  /**
   * Of a device: number of the time in which all writes to it were seen. Another number in a snapshot
   * says that what changed since that one is not known.
   */
  readonly watch?: number;
  readonly layers: readonly LayerRecord[];
  /** Layers of images that it had before another program gave it this one; never removed. */
  readonly left?: readonly string[];
  /** The most that one layer above the original took when it was frozen. */
  readonly largestLayerBytes?: number;
}

/** One disk of a snapshot: its content is `layer` and all below. */
export interface SnapshotDiskRecord {
  readonly name: string;
  readonly sizeBytes: number;
  readonly layer: number;
  /** That of its disk; see {@link DiskRecord}. */
  readonly watch?: number;
  /** Where the disk has another image since: `layer` and all below it, oldest first. */
  readonly layers?: readonly LayerRecord[];
}

/** A snapshot that can be read. */
export interface SnapshotRecord {
  readonly id: string;
  readonly takenAtMs: number;
  readonly consistency: ConsistencyRecord;
  readonly disks: readonly SnapshotDiskRecord[];
  readonly label?: SnapshotLabel;
  readonly tookMs?: number;
}

/** What is under way; absent when nothing is. */
export type WorkRecord =
  /** Layers of that number are in the record; QEMU may not write them yet. */
  | { readonly kind: "snapshot"; readonly layer: number }
  /** A layer is being written although others lie above it. */
  | { readonly kind: "merge" }
  /** Disks are being flattened; those done have one layer. */
  | { readonly kind: "detach" };

/** An instant that is kept aside by a process, or was by one that died. */
export interface FleeceRecord {
  readonly snapshotId: string;
  /** Where QEMU serves it, as this process reaches it. */
  readonly socketPath: string;
  readonly disks: readonly FleeceDisk[];
}

/** See above. Immutable: every change makes a new one. */
export interface VmRecord {
  readonly vmId: string;
  /** Number of the next layer. */
  readonly nextLayer: number;
  /** Whether the VM was started once: the saved machine state of a description holds only before. */
  readonly hasStarted: boolean;
  readonly disks: readonly DiskRecord[];
  readonly snapshots: readonly SnapshotRecord[];
  readonly work?: WorkRecord;
  /** By vault id, the snapshot from which its newest recovery point was sent. */
  readonly bases?: Readonly<Record<string, string>>;
  /** Absent where none is in use and none is left. */
  readonly fleece?: FleeceRecord;
  /** By vault id, the fleeced instant from which its newest recovery point was sent. */
  readonly fleeceBases?: Readonly<Record<string, string>>;
  /** Files that are in no chain any more, to be removed. */
  readonly garbage: readonly string[];
}

/** The bytes of a record, with a checksum. */
export function encodeVmRecord(record: VmRecord): Uint8Array {
  const body = JSON.stringify(record, undefined, 1);
  const head = { kluis: "vm-record", version: formatVersion, sha256: hashOf(body) };
  return Buffer.from(`${JSON.stringify(head)}\n${body}\n`);
}

/** Reads a record. Errors: ConfigInvalid (after-change) where it is damaged or of a newer version. */
export function parseVmRecord(bytes: Uint8Array, path: string): VmRecord {
  const text = Buffer.from(bytes).toString("utf8");
  const [headLine = ""] = text.split("\n", 1);
  const body = text.slice(headLine.length + 1, -1);
  const head = parseObject(headLine, path);
  if (head["kluis"] !== "vm-record") throw damaged(path, "it is no record of a VM");
  if (head["version"] !== formatVersion) {
    throw damaged(path, `its version ${String(head["version"])} is not known here`);
  }
  if (head["sha256"] !== hashOf(body)) throw damaged(path, "its checksum is wrong");
  // The checksum says that this is what encodeVmRecord wrote, so its form is known.
  return parseObject(body, path) as unknown as VmRecord;
}

/** The active layer of a disk. */
export function activeLayer(disk: DiskRecord): LayerRecord {
  return present(disk.layers.at(-1), "a disk has a layer");
}

/** The original image of a disk. */
export function originalLayer(disk: DiskRecord): LayerRecord {
  return present(disk.layers[0], "a disk has a layer");
}

/** Whether the original of a disk is a block device. */
export function isOnDevice(disk: Pick<DiskRecord, "layerStem">): boolean {
  return disk.layerStem !== undefined;
}

/** What the paths of a disk's layers begin with. */
export function layerStem(disk: DiskRecord): string {
  return disk.layerStem ?? originalLayer(disk).path;
}

/** The disk of that name. */
export function findDisk(record: VmRecord, name: string): DiskRecord | undefined {
  return record.disks.find((disk) => disk.name === name);
}

/** The snapshot of that id. */
export function findSnapshot(record: VmRecord, id: string): SnapshotRecord | undefined {
  return record.snapshots.find((snapshot) => snapshot.id === id);
}

/** Ids of the vaults whose newest recovery point was sent from this snapshot. */
export function vaultsBasedOn(record: VmRecord, snapshotId: string): readonly string[] {
  const bases = Object.entries(record.bases ?? {});
  return bases.filter(([, id]) => id === snapshotId).map(([vaultId]) => vaultId);
}

/** The record with the snapshot as the base of that vault; bases that are gone are forgotten. */
export function withBase(
  record: VmRecord,
  base: { readonly vaultId: string; readonly snapshotId: string },
): VmRecord {
  const bases = { ...record.bases, [base.vaultId]: base.snapshotId };
  const known = Object.entries(bases).filter(([, id]) => findSnapshot(record, id) !== undefined);
  return { ...record, bases: Object.fromEntries(known) };
}

/** The record with the fleeced instant as the base of that vault. */
export function withFleeceBase(
  record: VmRecord,
  base: { readonly vaultId: string; readonly snapshotId: string } | undefined,
): VmRecord {
  if (base === undefined) return record;
  const fleeceBases = { ...record.fleeceBases, [base.vaultId]: base.snapshotId };
  return { ...record, fleeceBases };
}

/** The record with `change` applied to every disk. */
export function mapDisks(record: VmRecord, change: (disk: DiskRecord) => DiskRecord): VmRecord {
  return { ...record, disks: record.disks.map(change) };
}

/** The record with a new time of watching a device: what was written to it before is not known. */
export function withWatchEnded(record: VmRecord, diskName: string): VmRecord {
  return mapDisks(record, (disk) =>
    disk.name === diskName ? { ...disk, watch: (disk.watch ?? 0) + 1 } : disk,
  );
}

/** The record without work under way. */
export function withoutWork(record: VmRecord): VmRecord {
  const { work: _, ...rest } = record;
  return rest;
}

/** The record without a fleece. */
export function withoutFleece(record: VmRecord): VmRecord {
  const { fleece: _, ...rest } = record;
  return rest;
}

function hashOf(body: string): string {
  return createHash("sha256").update(body).digest("hex");
}

function parseObject(text: string, path: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch (error) {
    throw damaged(path, "it is not JSON", error);
  }
  throw damaged(path, "it is no object");
}

function damaged(path: string, reason: string, cause?: unknown): KluisError {
  return new KluisError("ConfigInvalid", `Cannot read the record "${path}": ${reason}`, {
    details: { path },
    cause,
  });
}
