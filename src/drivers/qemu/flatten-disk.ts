/**
 * Flattens a disk of a running machine into its original image; the order of steps is that of
 * docs/design/qemu-driver.md.
 */
import { fileURLToPath } from "node:url";

import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { GuardLink } from "#drivers/guest/guard-link.ts";
import { syncFile } from "#drivers/layers/durable-file.ts";
import type { Flattening } from "#drivers/layers/layered-vm.ts";
import { writeVmRecord } from "#drivers/layers/vm-record-file.ts";
import { activeLayer, originalLayer, type VmRecord } from "#drivers/layers/vm-record.ts";
import { readProcessIdentity } from "#drivers/process/process-identity.ts";
import { nodeName } from "./arguments.ts";
import { closeUnusedLayers, queryChains } from "./block-graph.ts";
import type { QmpClient } from "#drivers/qmp/qmp-client.ts";
import { cancelJob, dismissJob, findJob, waitForJob } from "#drivers/qmp/qmp-jobs.ts";
import { detachJobId } from "./settle-pivot.ts";
import type { VmContext } from "./vm-context.ts";

const pivotGuardProgram = fileURLToPath(new URL("pivot-guard.ts", import.meta.url));
const GUARD_TASK_TIMEOUT_MS = 5_000;

/** See above. Returns the record as last written. Errors: QmpFailed; the VM goes on as it was. */
export async function flattenDisk(
  qmp: QmpClient,
  context: VmContext,
  flattening: Flattening,
): Promise<VmRecord> {
  const { disk } = flattening;
  const id = detachJobId(disk.name);
  await qmp.execute("block-commit", {
    "job-id": id,
    device: nodeName(disk.name, activeLayer(disk).number),
    "base-node": nodeName(disk.name, originalLayer(disk).number),
    "auto-dismiss": false,
    "auto-finalize": false,
  });
  const guard = await prepareChangeOver(qmp, context, flattening);
  try {
    return await changeOver(qmp, context, flattening);
  } catch (error) {
    await takeBack(qmp, context, flattening);
    throw error;
  } finally {
    await guard.finish();
  }
}

/** Waits until nearly all is copied, and starts the guard. On an error the job is cancelled. */
async function prepareChangeOver(
  qmp: QmpClient,
  context: VmContext,
  flattening: Flattening,
): Promise<GuardLink> {
  const { disk, signal } = flattening;
  const id = detachJobId(disk.name);
  try {
    await waitForStatus(qmp, id, { status: "ready", signal });
    return await startPivotGuard(context, signal);
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
  const { flat, disk } = flattening;
  const id = detachJobId(disk.name);
  await qmp.execute("job-complete", { id });
  await waitForStatus(qmp, id, { status: "pending", signal: undefined });
  await context.onStep("detach-pending");
  await syncFile(originalLayer(disk).path);
  await writeVmRecord(context, flat);
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
