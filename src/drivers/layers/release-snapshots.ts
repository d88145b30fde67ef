/** Lets go of snapshots: each is condemned in the record, then layers that none needs are merged. */
import { rm, stat } from "node:fs/promises";

import { KluisError, toKluisError } from "#base/kluis-error.ts";
import { present } from "#base/assert.ts";
import { assertLayersFree } from "./assert-layers-free.ts";
import { commitLayers } from "./commit-layers.ts";
import { syncFile } from "./durable-file.ts";
import {
  planRelease,
  toUnfrozen,
  withLayer,
  withMergedLayers,
  type LayerMerge,
  type ReleasePlan,
} from "./layer-changes.ts";
import { readLayerFingerprint } from "./layer-fingerprint.ts";
import { readLayerKey } from "./layer-key.ts";
import { rebaseOverlay } from "./overlay.ts";
import { listReadSnapshots } from "./readers.ts";
import { removeLayers } from "./remove-layers.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import {
  activeLayer,
  findDisk,
  type DiskRecord,
  type LayerRecord,
  type VmRecord,
} from "./vm-record.ts";

/** A commit of a whole disk on a slow one; it is stopped when a snapshot is due. */
const MERGE_TIMEOUT_MS = 24 * 3_600_000;
/** How often a merge without QEMU looks whether it is to stop. */
const STOP_POLL_MS = 100;

/** What a release works on. `record` is in order (see recoverVm); the caller holds the VM's lock. */
export interface ReleaseWork {
  readonly context: LayeredVm;
  readonly record: VmRecord;
  readonly machine: RunningMachine | undefined;
  /** Snapshots to condemn. */
  readonly ids: ReadonlySet<string>;
  readonly signal: AbortSignal | undefined;
}

/**
 * Condemns the snapshots that nobody reads, which makes them absent, and merges the layers that no
 * snapshot needs any more, those that an earlier release did not get to as well.
 *
 * Errors: SnapshotInUse (backoff) where one is being read, after what can be released was; Busy
 * (backoff) where a snapshot is due, the layers not yet merged stay and are merged by the next release.
 */
export async function releaseSnapshots(work: ReleaseWork): Promise<void> {
  const { context, record, ids } = work;
  const read = await listReadSnapshots(context.directory.readersDirectory);
  const plan = planRelease(record, ids, read);
  if (plan.merges.length > 0) await applyMerges(work, plan);
  else if (plan.dropped.length > 0) await writeVmRecord(context, dropSnapshots(record, plan));
  if (plan.blockedBy.length > 0) throw inUse(plan.blockedBy);
}

function dropSnapshots(record: VmRecord, plan: ReleasePlan): VmRecord {
  return {
    ...record,
    snapshots: record.snapshots.filter((snapshot) => !plan.dropped.includes(snapshot)),
  };
}

async function applyMerges(work: ReleaseWork, plan: ReleasePlan): Promise<void> {
  const { context } = work;
  await rm(context.directory.mergeStopPath, { force: true });
  const going = plan.merges.map((merge) => {
    const disk = diskOf(work.record, merge);
    return { disk, going: disk.layers.filter((layer) => isMergedBy(merge, layer)) };
  });
  await assertLayersFree(work.machine, going, work.signal);
  let record = dropSnapshots(work.record, plan);
  for (const merge of plan.merges) {
    record = thawWritten(record, merge);
    await writeVmRecord(context, { ...record, work: { kind: "merge" } });
    await context.onStep("merge-marked");
    const isDone = await commit(work, diskOf(record, merge), merge);
    await context.onStep("merge-committed");
    const settled = await settleMerge(context, record, { merge, isDone });
    // Encrypted layers are named one by one, so that no start looks for those that go.
    if (isEncrypted(record, merge)) await context.nameLayers(settled);
    record = await writeVmRecord(context, settled);
    await context.onStep("merge-recorded");
    await removeLayers(context, record, record.garbage);
    record = { ...record, garbage: [] };
    if (!isDone) throw stoppedMerge();
  }
  await writeVmRecord(context, record);
}

/**
 * The record without the fingerprints that a merge makes void: from here on the lowest layer is no
 * instant any more and may be half of one, and the layer above the merged ones gets a new header.
 */
function thawWritten(record: VmRecord, merge: LayerMerge): VmRecord {
  const disk = diskOf(record, merge);
  const thawed = withLayer(record, disk.name, toUnfrozen(layerOf(disk, merge.into)));
  const above = layerAbove(disk, merge);
  return above === undefined ? thawed : withLayer(thawed, disk.name, toUnfrozen(above));
}

/** Commits one range; false where a snapshot is due and the commit was stopped. */
async function commit(work: ReleaseWork, disk: DiskRecord, merge: LayerMerge): Promise<boolean> {
  try {
    return work.machine === undefined
      ? await commitStopped(work, disk, merge)
      : await commitRunning(work, work.machine, { disk, merge });
  } catch (error) {
    const { message } = toKluisError(error);
    if (!/Failed to get .* lock/.test(message)) throw error;
    throw new KluisError(
      "SnapshotInUse",
      `Cannot merge the layers of disk "${disk.name}": another program reads them`,
      { cause: error },
    );
  }
}

/** The record after a commit that ended or was stopped: what was written is frozen again. */
async function settleMerge(
  context: LayeredVm,
  record: VmRecord,
  outcome: { readonly merge: LayerMerge; readonly isDone: boolean },
): Promise<VmRecord> {
  const { merge, isDone } = outcome;
  const disk = diskOf(record, merge);
  const into = layerOf(disk, merge.into);
  const merged = disk.layers
    .filter((layer) => isMergedBy(merge, layer))
    .map((layer) => layer.number);
  const rest = isDone ? withMergedLayers(record, merge.diskName, merged) : record;
  const frozen = await readLayerFingerprint(into.path, context.clock);
  const settled = withLayer(rest, merge.diskName, { ...into, frozen });
  const above = layerAbove(disk, merge);
  if (above === undefined || above === activeLayer(disk)) return settled;
  const header = await readLayerFingerprint(above.path, context.clock);
  return withLayer(settled, merge.diskName, { ...above, frozen: header });
}

async function commitRunning(
  work: ReleaseWork,
  machine: RunningMachine,
  target: { readonly disk: DiskRecord; readonly merge: LayerMerge },
): Promise<boolean> {
  const { context, signal } = work;
  const { disk, merge } = target;
  await using session = await machine.open(signal);
  const isUnwanted = (): Promise<boolean> => isMergeUnwanted(context);
  await session.commit(disk, merge, { signal, isUnwanted });
  // A commit that is cancelled in its last moment may be complete all the same: ask the graph.
  const chains = await session.queryChains([disk]);
  const isDone = chains.get(disk.name)?.numbers.includes(merge.upTo) === false;
  await session.closeUnused([disk], chains);
  await syncFile(layerOf(disk, merge.into).path);
  return isDone;
}

async function commitStopped(
  work: ReleaseWork,
  disk: DiskRecord,
  merge: LayerMerge,
): Promise<boolean> {
  const into = layerOf(disk, merge.into);
  const above = layerAbove(disk, merge);
  const stop = new AbortController();
  const ended = new AbortController();
  const watching = watchForStop(work.context, stop, ended.signal);
  const signals = work.signal === undefined ? [stop.signal] : [stop.signal, work.signal];
  try {
    const passphrase = await readLayerKey(work.context, into);
    await commitLayers({
      chain: disk.layers.filter(({ number }) => number <= merge.upTo),
      into: merge.into,
      passphrase,
      timeoutMs: MERGE_TIMEOUT_MS,
      signal: AbortSignal.any(signals),
    });
    await syncFile(into.path);
    if (above !== undefined) await rebaseOverlay(above, into, passphrase);
    return true;
  } catch (error) {
    if (stop.signal.aborted) return false;
    throw error;
  } finally {
    ended.abort();
    await watching;
  }
}

async function watchForStop(
  context: LayeredVm,
  stop: AbortController,
  ended: AbortSignal,
): Promise<void> {
  while (!ended.aborted) {
    if (await isMergeUnwanted(context)) {
      stop.abort(stoppedMerge());
      return;
    }
    try {
      await context.clock.sleep(STOP_POLL_MS, ended);
    } catch (error) {
      if (!ended.aborted) throw error;
    }
  }
}

/** Whether somebody who waits for the VM's lock has asked this merge to stop. */
async function isMergeUnwanted(context: LayeredVm): Promise<boolean> {
  try {
    await stat(context.directory.mergeStopPath);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

function diskOf(record: VmRecord, merge: LayerMerge): DiskRecord {
  return present(findDisk(record, merge.diskName), "a merge is planned on a disk of the record");
}

function isEncrypted(record: VmRecord, merge: LayerMerge): boolean {
  return activeLayer(diskOf(record, merge)).secretId !== undefined;
}

function layerOf(disk: DiskRecord, number: number): LayerRecord {
  const layer = disk.layers.find((candidate) => candidate.number === number);
  return present(layer, "a merge is planned on layers of the record");
}

function isMergedBy(merge: LayerMerge, { number }: LayerRecord): boolean {
  return number > merge.into && number <= merge.upTo;
}

function layerAbove(disk: DiskRecord, merge: LayerMerge): LayerRecord | undefined {
  return disk.layers.find((layer) => layer.number > merge.upTo);
}

function inUse(ids: readonly string[]): KluisError {
  return new KluisError(
    "SnapshotInUse",
    `Cannot release all that is due: somebody reads snapshot ${ids.map((id) => `"${id}"`).join(", ")}`,
  );
}

function stoppedMerge(): KluisError {
  return new KluisError("Busy", "Cannot merge layers now: a new snapshot is due");
}
