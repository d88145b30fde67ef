/** The last step of a flattening, by whoever must take it: Kluis, its guard, or a later run. */
import { queryJobs, waitForJob, type QmpJob } from "#drivers/qmp/qmp-jobs.ts";
import { isQmpRefusal, type QmpClient } from "#drivers/qmp/qmp-client.ts";
import { findDisk, type VmRecord } from "#drivers/layers/vm-record.ts";

const jobPrefix = "kluis-detach-";

/** Id of the job that flattens a disk. */
export function detachJobId(diskName: string): string {
  return `${jobPrefix}${diskName}`;
}

/**
 * Brings every flattening to the side that the record names: a pending job is finished where the
 * record names the original alone, and cancelled where it names layers; any other is cancelled.
 * Nobody may write the record meanwhile. Errors: QmpFailed.
 */
export async function settlePivots(qmp: QmpClient, record: VmRecord): Promise<void> {
  for (const job of await queryJobs(qmp)) {
    if (!job.id.startsWith(jobPrefix)) continue;
    const disk = findDisk(record, job.id.slice(jobPrefix.length));
    await settleJob(qmp, job, disk?.layers.length === 1);
  }
}

async function settleJob(qmp: QmpClient, job: QmpJob, isFlatRecorded: boolean): Promise<void> {
  const { id } = job;
  if (job.status !== "concluded") {
    const command = job.status === "pending" && isFlatRecorded ? "job-finalize" : "job-cancel";
    try {
      await qmp.execute(command, { id });
    } catch (error) {
      // It may have concluded meanwhile, which the wait below sees.
      if (!isQmpRefusal(error)) throw error;
    }
    await waitForJob(qmp, id, ["concluded"]);
  }
  await qmp.execute("job-dismiss", { id });
}
