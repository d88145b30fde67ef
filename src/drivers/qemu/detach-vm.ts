/** Flattens every disk into its original image; the order of steps is that of docs/design/qemu-driver.md. */
import { fileURLToPath } from "node:url";

import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { readProcessIdentity, type ProcessIdentity } from "#drivers/process/process-identity.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { nodeName } from "./arguments.ts";
import { closeUnusedLayers, queryChains } from "./block-graph.ts";
import { removeDurably, syncFile } from "#drivers/layers/durable-file.ts";
import { GuardLink } from "#drivers/guest/guard-link.ts";
import { toUnfrozen, withMergedLayers } from "#drivers/layers/layer-changes.ts";
import { QmpClient } from "./qmp-client.ts";
import { cancelJob, dismissJob, findJob, waitForJob } from "./qmp-jobs.ts";
import { listReadSnapshots } from "#drivers/layers/readers.ts";
import { detachJobId } from "./settle-pivot.ts";
import type { VmContext } from "./vm-context.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import {
  activeLayer,
  mapDisks,
  originalLayer,
  withoutWork,
  type DiskRecord,
  type VmRecord,
} from "#drivers/layers/vm-record.ts";

const pivotGuardProgram = fileURLToPath(new URL("pivot-guard.ts", import.meta.url));

/** A commit of a whole disk on a slow one. */
const COMMIT_TIMEOUT_MS = 24 * 3_600_000;
const GUARD_TASK_TIMEOUT_MS = 5_000;

/** What a detach works on. `record` is in order (see recoverVm); the caller holds the VM's lock. */
export interface DetachWork {
  readonly context: VmContext;
  readonly record: VmRecord;
  readonly machine: ProcessIdentity | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Flattens every disk and forgets all snapshots. A disk that was flattened stays so where a later
 * one fails. Errors: SnapshotInUse (backoff) where a snapshot is being read; QmpFailed, ToolFailed.
 */
export async function detachVm(work: DetachWork): Promise<void> {
  const { context } = work;
  const read = await listReadSnapshots(context.directory.readersDirectory);
  if (read.size > 0) {
    const ids = [...read].map((id) => `"${id}"`).join(", ");
    throw new KluisError("SnapshotInUse", `Cannot detach the VM: snapshot ${ids} is being read`);
  }
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
        : await flattenRunning(work, record, disk);
    await removeDurably(record.garbage);
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
  const top = activeLayer(disk);
  const original = originalLayer(disk);
  const args = ["commit", "-q", "-d", "-f", top.format, "-b", original.path, "--", top.path];
  const result = await runTool("qemu-img", args, {
    timeoutMs: COMMIT_TIMEOUT_MS,
    dieWithParent: true,
    ...(signal === undefined ? {} : { signal }),
  });
  assertToolSucceeded("qemu-img", result);
  await syncFile(original.path);
  await context.onStep("detach-pending");
  const flat = await writeVmRecord(context, planFlat(record, disk));
  await context.onStep("detach-recorded");
  return flat;
}

async function flattenRunning(
  work: DetachWork,
  record: VmRecord,
  disk: DiskRecord,
): Promise<VmRecord> {
  const { context, signal } = work;
  const id = detachJobId(disk.name);
  await using qmp = await QmpClient.open(context.paths.qmpSocket, { clock: context.clock, signal });
  await qmp.execute("block-commit", {
    "job-id": id,
    device: nodeName(disk.name, activeLayer(disk).number),
    "base-node": nodeName(disk.name, originalLayer(disk).number),
    "auto-dismiss": false,
    "auto-finalize": false,
  });
  const guard = await prepareChangeOver(qmp, work, disk);
  try {
    return await changeOver(qmp, context, { record, disk });
  } catch (error) {
    await takeBack(qmp, context, { record, disk });
    throw error;
  } finally {
    await guard.finish();
  }
}

/** One disk and the record that names its layers. */
interface Flattening {
  readonly record: VmRecord;
  readonly disk: DiskRecord;
}

/** Waits until nearly all is copied, and starts the guard. On an error the job is cancelled. */
async function prepareChangeOver(
  qmp: QmpClient,
  work: DetachWork,
  disk: DiskRecord,
): Promise<GuardLink> {
  const id = detachJobId(disk.name);
  try {
    await waitForStatus(qmp, id, { status: "ready", signal: work.signal });
    return await startPivotGuard(work.context, work.signal);
  } catch (error) {
    await cancelJob(qmp, id);
    throw error;
  }
}

/** The moment in which the guest's requests for this disk wait; see pivot-guard.ts. */
async function changeOver(
  qmp: QmpClient,
  context: VmContext,
  flattening: Flattening,
): Promise<VmRecord> {
  const { record, disk } = flattening;
  const id = detachJobId(disk.name);
  await qmp.execute("job-complete", { id });
  await waitForStatus(qmp, id, { status: "pending", signal: undefined });
  await context.onStep("detach-pending");
  await syncFile(originalLayer(disk).path);
  const flat = await writeVmRecord(context, planFlat(record, disk));
  await context.onStep("detach-recorded");
  await qmp.execute("job-finalize", { id });
  await dismissJob(qmp, await waitForJob(qmp, id, []));
  await context.onStep("detach-finished");
  await closeUnusedLayers(qmp, flat.disks, await queryChains(qmp, flat.disks));
  return flat;
}

/**
 * After an error: while the job has not taken its last step both sides are equal, so the record
 * names the layers again before the guest goes on; after it QEMU says which side it uses.
 */
async function takeBack(qmp: QmpClient, context: VmContext, flattening: Flattening): Promise<void> {
  const { record, disk } = flattening;
  const id = detachJobId(disk.name);
  const layered: VmRecord = { ...record, work: { kind: "detach" } };
  const job = await findJob(qmp, id);
  if (job !== undefined && job.status !== "concluded") {
    await writeVmRecord(context, layered);
    await cancelJob(qmp, id);
    return;
  }
  await cancelJob(qmp, id);
  const used = (await queryChains(qmp, [disk])).get(disk.name)?.numbers ?? [];
  if (used.length > 1) await writeVmRecord(context, layered);
}

async function waitForStatus(
  qmp: QmpClient,
  id: string,
  wait: { readonly status: "ready" | "pending"; readonly signal: AbortSignal | undefined },
): Promise<void> {
  const job = await waitForJob(qmp, id, [wait.status], { signal: wait.signal });
  if (job.status === wait.status) return;
  throw new KluisError(
    "QmpFailed",
    `Cannot flatten a disk: job "${id}" of QEMU failed: ${job.error ?? "it gave no reason"}`,
  );
}

async function startPivotGuard(
  context: VmContext,
  signal: AbortSignal | undefined,
): Promise<GuardLink> {
  const { paths, directory, clock } = context;
  const targetSocket = present(paths.rescueSocket, "a machine of Kluis has a second monitor");
  const kluis = present(await readProcessIdentity(process.pid), "this process has an identity");
  const guard = await GuardLink.start(
    {
      program: pivotGuardProgram,
      runDirectory: directory.runDirectory,
      config: { targetSocket, recordPath: directory.recordPath, kluis },
      clock,
    },
    signal,
  );
  try {
    await guard.ask("prepare", { timeoutMs: GUARD_TASK_TIMEOUT_MS, signal });
    return guard;
  } catch (error) {
    await guard.kill();
    throw error;
  }
}
