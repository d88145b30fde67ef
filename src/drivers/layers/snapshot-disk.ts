/** Reading the disks of a snapshot: their content, and what changed since an earlier one. */
import { KluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { readOverlayExtents } from "#drivers/disk/overlay-extents.ts";
import type { ChangedExtents, DiskReader, Extent } from "#ports/disk.ts";
import type { ChangesAnswer, SnapshotDisk, VmSnapshot } from "#ports/hypervisor.ts";
import { unionChanges, withGrowth } from "./change-union.ts";
import { assertLayerUnchanged } from "./layer-fingerprint.ts";
import { qemuFormat } from "./disk-layer.ts";
import { readLayerKey } from "./layer-key.ts";
import { createReaderLease, type ReaderLease } from "./readers.ts";
import type { LayeredVm } from "./layered-vm.ts";
import { acquireVmLock, type VmLock } from "./vm-lock.ts";
import { readStoredRecord } from "./vm-record-file.ts";
import {
  findDisk,
  findSnapshot,
  vaultsBasedOn,
  type LayerRecord,
  type SnapshotDiskRecord,
  type SnapshotRecord,
  type VmRecord,
} from "./vm-record.ts";

/** An operation on the VM holds its lock for seconds; a merge may hold it for long. */
const LOCK_TIMEOUT_MS = 60_000;

/** Where the disks of a snapshot are read. */
interface SnapshotPlace {
  readonly context: LayeredVm;
  /** Calls at the same time take the VM's lock in turn; whoever finds it taken would wait a whole poll. */
  readonly turn: Semaphore;
}

/** A recorded snapshot as the port has it. Its disks may be opened at the same time. */
export function toVmSnapshot(
  context: LayeredVm,
  record: VmRecord,
  snapshot: SnapshotRecord,
): VmSnapshot {
  const { label, tookMs } = snapshot;
  const place = { context, turn: new Semaphore(1) };
  return {
    baseOf: vaultsBasedOn(record, snapshot.id),
    ...(label === undefined ? {} : { label }),
    ...(tookMs === undefined ? {} : { tookMs }),
    id: snapshot.id,
    takenAtMs: snapshot.takenAtMs,
    consistency: snapshot.consistency,
    disks: snapshot.disks.map((disk) => {
      const isEncrypted = layersUpTo(record, disk).at(-1)?.secretId !== undefined;
      return {
        ...toSnapshotDisk(place, snapshot.id, disk),
        ...(isEncrypted ? { isEncrypted } : {}),
      };
    }),
  };
}

function toSnapshotDisk(
  place: SnapshotPlace,
  snapshotId: string,
  disk: SnapshotDiskRecord,
): SnapshotDisk {
  const { name, sizeBytes } = disk;
  return {
    name,
    sizeBytes,
    open: async (signal) => {
      const reader = await openAt(place, { snapshotId, diskName: name }, signal);
      if (reader !== undefined) return reader;
      throw new KluisError("VmStateWrong", `Cannot open snapshot "${snapshotId}": it was released`);
    },
    changesSince: (baseId, signal) =>
      readChanges(place, { baseId, snapshotId, diskName: name }, signal),
    openBase: (baseId, signal) => openAt(place, { snapshotId: baseId, diskName: name }, signal),
  };
}

/** A disk of a snapshot, by names. */
interface DiskAt {
  readonly snapshotId: string;
  readonly diskName: string;
}

/** A snapshot that cannot go while it is held. */
interface HeldSnapshot {
  readonly record: VmRecord;
  readonly disk: SnapshotDiskRecord;
  readonly lease: ReaderLease;
  /** Whether all writes to its layers since they were frozen would show. */
  readonly isWatched: boolean;
}

/** The VM's lock for a moment's work on the record, whatever goes on: operations are waited for. */
export function lockToRead(context: LayeredVm, signal: AbortSignal | undefined): Promise<VmLock> {
  return acquireVmLock(context.directory.lockPath, "read", {
    timeoutMs: LOCK_TIMEOUT_MS,
    clock: context.clock,
    signal,
    mayWaitFor: () => true,
  });
}

/** Marks the snapshot as being read; `undefined` where it is not there or has no such disk. */
async function holdSnapshot(
  { context, turn }: SnapshotPlace,
  at: DiskAt,
  signal: AbortSignal | undefined,
): Promise<HeldSnapshot | undefined> {
  const { directory } = context;
  await using owned = new AsyncDisposableStack();
  await turn.acquire(signal);
  owned.defer(() => {
    turn.release();
  });
  owned.use(await lockToRead(context, signal));
  // Of the record alone: where the VM's disks are by now says nothing of its frozen layers.
  const record = await readStoredRecord(directory);
  if (record === undefined) return undefined;
  const snapshot = findSnapshot(record, at.snapshotId);
  const disk = snapshot?.disks.find((candidate) => candidate.name === at.diskName);
  if (disk === undefined) return undefined;
  let isWatched = true;
  for (const layer of layersUpTo(record, disk)) {
    isWatched = (await assertFrozen(layer)) && isWatched;
  }
  return {
    record,
    disk,
    isWatched,
    lease: await createReaderLease(directory.readersDirectory, at.snapshotId),
  };
}

async function openAt(
  place: SnapshotPlace,
  at: DiskAt,
  signal: AbortSignal | undefined,
): Promise<DiskReader | undefined> {
  const held = await holdSnapshot(place, at, signal);
  if (held === undefined) return undefined;
  const { record, disk, lease } = held;
  try {
    const layer = layersUpTo(record, disk).at(-1) as LayerRecord;
    const reader = await openDiskImage(layer.path, {
      format: qemuFormat(layer),
      isShared: true,
      passphrase: await readLayerKey(place.context, layer),
      ...(signal === undefined ? {} : { signal }),
    });
    return new HeldReader(reader, lease);
  } catch (error) {
    await lease[Symbol.asyncDispose]();
    throw error;
  }
}

interface ChangesRequest extends DiskAt {
  readonly baseId: string;
}

async function readChanges(
  place: SnapshotPlace,
  request: ChangesRequest,
  signal: AbortSignal | undefined,
): Promise<ChangesAnswer> {
  const held = await holdSnapshot(place, request, signal);
  if (held === undefined) return unknown("the snapshot was released");
  await using _ = held.lease;
  const { record, disk, isWatched } = held;
  const base = findSnapshot(record, request.baseId);
  if (base === undefined) return unknown(`snapshot "${request.baseId}" is not there any more`);
  const before = base.disks.find((candidate) => candidate.name === disk.name);
  if (before === undefined) return unknown(`snapshot "${base.id}" has no disk "${disk.name}"`);
  if (!isSameChain(before, disk)) {
    return unknown(
      "the disk has another image since: its storage was moved, or another program took a snapshot " +
        "or merged layers",
    );
  }
  if (before.layer > disk.layer) return unknown(`snapshot "${base.id}" is not older`);
  if (before.sizeBytes > disk.sizeBytes) return unknown("the disk has become smaller");
  if (!isWatched || before.watch !== findDisk(record, disk.name)?.watch) {
    return unknown(
      "the device below the disk may have been written since: the host was started anew, the device " +
        "was away, or its writes are not counted",
    );
  }
  let changes: ChangedExtents = [];
  for (const layer of layersUpTo(record, disk)) {
    if (layer.number <= before.layer) continue;
    const passphrase = await readLayerKey(place.context, layer);
    const { extents } = await readOverlayExtents(layer.path, { passphrase, signal });
    changes = unionChanges(changes, extents);
  }
  const sizes = { beforeBytes: before.sizeBytes, nowBytes: disk.sizeBytes };
  return { known: true, method: "snapshot-difference", extents: withGrowth(changes, sizes) };
}

function layersUpTo(record: VmRecord, disk: SnapshotDiskRecord): readonly LayerRecord[] {
  if (disk.layers !== undefined) return disk.layers;
  const layers = findDisk(record, disk.name)?.layers ?? [];
  return layers.filter((layer) => layer.number <= disk.layer);
}

/** Whether the layers of `before` are the lower ones of `now`; what is not certain is not so. */
function isSameChain(before: SnapshotDiskRecord, now: SnapshotDiskRecord): boolean {
  if (before.layers === undefined || now.layers === undefined) return before.layers === now.layers;
  const lower = now.layers.slice(0, before.layers.length);
  return JSON.stringify(lower) === JSON.stringify(before.layers);
}

/** False where it is a device that was not watched all the time. */
async function assertFrozen(layer: LayerRecord): Promise<boolean> {
  if (layer.frozen !== undefined) return await assertLayerUnchanged(layer.path, layer.frozen);
  throw new KluisError(
    "Busy",
    `Cannot read layer "${layer.path}": a run that died was writing it; the next operation clears up`,
  );
}

function unknown(reason: string): ChangesAnswer {
  return { known: false, reason };
}

/** A reader that gives its snapshot free when it is closed. */
class HeldReader implements DiskReader {
  readonly #reader: DiskReader;
  readonly #lease: ReaderLease;

  constructor(reader: DiskReader, lease: ReaderLease) {
    this.#reader = reader;
    this.#lease = lease;
  }

  get sizeBytes(): number {
    return this.#reader.sizeBytes;
  }

  get readsInFlight(): number {
    return this.#reader.readsInFlight;
  }

  read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#reader.read(offsetBytes, target, signal);
  }

  extents(signal?: AbortSignal): AsyncIterable<Extent> {
    return this.#reader.extents(signal);
  }

  assertUnchanged(): Promise<void> {
    return this.#reader.assertUnchanged();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#reader[Symbol.asyncDispose]();
    } finally {
      await this.#lease[Symbol.asyncDispose]();
    }
  }
}
