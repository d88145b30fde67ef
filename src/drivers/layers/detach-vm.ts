/** Flattens every disk of a VM into its original image. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { assertLayersFree } from "./assert-layers-free.ts";
import { commitLayers } from "./commit-layers.ts";
import { syncFile } from "./durable-file.ts";
import { toUnfrozen, withMergedLayers } from "./layer-changes.ts";
import { readLayerKey } from "./layer-key.ts";
import { listReadSnapshots } from "./readers.ts";
import { removeLayers } from "./remove-layers.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import {
  mapDisks,
  originalLayer,
  withoutWork,
  type DiskRecord,
  type VmRecord,
} from "./vm-record.ts";

/** A commit of a whole disk on a slow one. */
const COMMIT_TIMEOUT_MS = 24 * 3_600_000;

/** What a detach works on. `record` is in order (see recoverVm); the caller holds the VM's lock. */
export interface DetachWork {
  readonly context: LayeredVm;
  readonly record: VmRecord;
  readonly machine: RunningMachine | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Flattens every disk and forgets all snapshots. A disk that was flattened stays so where a later
 * one fails. Errors: SnapshotInUse (backoff) where a snapshot is being read; those of assertLayersFree,
 * with nothing done; QmpFailed, ToolFailed.
 */
export async function detachVm(work: DetachWork): Promise<void> {
  const { context } = work;
  const read = await listReadSnapshots(context.directory.readersDirectory);
  if (read.size > 0) {
    const ids = [...read].map((id) => `"${id}"`).join(", ");
    throw new KluisError("SnapshotInUse", `Cannot detach the VM: snapshot ${ids} is being read`);
  }
  const layered = work.record.disks.filter((disk) => disk.layers.length > 1);
  const going = layered.map((disk) => ({ disk, going: disk.layers.slice(1) }));
  await assertLayersFree(work.machine, going, work.signal);
  // The original is written from here on: no snapshot is an instant any more.
  let record: VmRecord = { ...mapDisks(work.record, unfreezeAll), snapshots: [] };
  await writeVmRecord(context, { ...record, work: { kind: "detach" } });
  await context.onStep("detach-marked");
  for (const { name } of record.disks) {
    const disk = present(
      record.disks.find((each) => each.name === name),
      "a disk stays in the record",
    );
    if (disk.layers.length === 1) continue;
    record =
      work.machine === undefined
        ? await flattenStopped(work, record, disk)
        : await flattenRunning(work, work.machine, { record, disk });
    await removeLayers(context, record, record.garbage);
    record = { ...record, garbage: [] };
  }
  await writeVmRecord(context, withoutWork(record));
}

function unfreezeAll(disk: DiskRecord): DiskRecord {
  return { ...disk, layers: disk.layers.map(toUnfrozen) };
}

/** The record once the disk is its original alone. */
function planFlat(record: VmRecord, disk: DiskRecord): VmRecord {
  const above = disk.layers.slice(1).map((layer) => layer.number);
  return { ...withMergedLayers(record, disk.name, above), work: { kind: "detach" } };
}

async function flattenStopped(
  work: DetachWork,
  record: VmRecord,
  disk: DiskRecord,
): Promise<VmRecord> {
  const { context, signal } = work;
  const original = originalLayer(disk);
  await commitLayers({
    chain: disk.layers,
    into: original.number,
    passphrase: await readLayerKey(context, original),
    timeoutMs: COMMIT_TIMEOUT_MS,
    signal,
  });
  await syncFile(original.path);
  await context.onStep("detach-pending");
  const flat = planFlat(record, disk);
  await context.nameLayers(flat);
  await writeVmRecord(context, flat);
  await context.onStep("detach-recorded");
  return flat;
}

async function flattenRunning(
  work: DetachWork,
  machine: RunningMachine,
  target: { readonly record: VmRecord; readonly disk: DiskRecord },
): Promise<VmRecord> {
  const { signal } = work;
  const { record, disk } = target;
  await using session = await machine.open(signal);
  return await session.flatten({ record, disk, flat: planFlat(record, disk), signal });
}
