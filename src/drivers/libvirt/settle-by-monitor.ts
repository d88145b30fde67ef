/** The end of a change-over where libvirt is dead: QEMU's own monitor, which is free then. */
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { VmRecord } from "#drivers/layers/vm-record.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import { queryJobs, waitForJob, type QmpJob } from "#drivers/qmp/qmp-jobs.ts";

/** A libvirt that lives holds the monitor: QEMU does not greet us. */
const OPEN_TIMEOUT_MS = 1_000;
/** Both sides are equal and synced, so that the change-over is one moment. */
const CHANGE_OVER_MS_MAX = 5_000;

/**
 * Changes the disks over that the record has flattened and lets the guest go on; a disk that the
 * record has on layers stays on them, and its job goes on. libvirt finds the jobs that have ended
 * when it is back, so they are not dismissed. Errors: QmpFailed; it can be done again.
 */
export async function settleByMonitor(
  monitorPath: string,
  record: VmRecord,
  clock: Clock,
): Promise<void> {
  await using qmp = await QmpClient.open(monitorPath, { timeoutMs: OPEN_TIMEOUT_MS, clock });
  const names = record.disks.filter((disk) => disk.layers.length === 1).map((disk) => disk.name);
  for (const job of await queryJobs(qmp)) {
    if (names.some((name) => job.id.startsWith(`commit-${name}-`))) await changeOver(qmp, job);
  }
  await qmp.execute("cont");
}

async function changeOver(qmp: QmpClient, job: QmpJob): Promise<void> {
  const { clock } = qmp;
  if (job.status === "ready") await qmp.execute("block-job-complete", { device: job.id });
  const deadlineMs = clock.monotonicMs() + CHANGE_OVER_MS_MAX;
  const isUnwanted = (): Promise<boolean> => Promise.resolve(clock.monotonicMs() >= deadlineMs);
  const { status, error } = await waitForJob(qmp, job.id, ["concluded"], { isUnwanted });
  if (status === "concluded" && error === undefined) return;
  throw new KluisError(
    "QmpFailed",
    `Cannot complete job "${job.id}" of QEMU: ${error ?? `it is ${status}`}`,
  );
}
