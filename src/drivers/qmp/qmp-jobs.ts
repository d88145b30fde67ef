/** Jobs of QEMU (commits): started, watched until they end, and dismissed. */
import { KluisError } from "#base/kluis-error.ts";
import type { JsonObject } from "#formats/qmp-wire.ts";
import { isQmpRefusal, toObjects, type QmpClient } from "./qmp-client.ts";

/** How often a job is looked at; events of the job are looked at sooner. */
const JOB_POLL_MS = 200;

/** Where a job stands; those of QEMU that we wait for by name, all others as they come. */
export type JobStatus = "running" | "ready" | "pending" | "concluded" | (string & {});

/** A job as QEMU shows it. */
export interface QmpJob {
  readonly id: string;
  readonly status: JobStatus;
  readonly error: string | undefined;
  readonly doneUnits: number;
  readonly allUnits: number;
}

/** All jobs of the machine. */
export async function queryJobs(qmp: QmpClient): Promise<readonly QmpJob[]> {
  return toObjects(await qmp.execute("query-jobs"), "the jobs of QEMU").map(toJob);
}

/** The job of that id; `undefined` where there is none. */
export async function findJob(qmp: QmpClient, id: string): Promise<QmpJob | undefined> {
  return (await queryJobs(qmp)).find((job) => job.id === id);
}

/** What ends the wait for a job early. */
export interface JobWait {
  readonly signal?: AbortSignal | undefined;
  /** Asked while the job runs; true stops the wait with the job as it is. */
  readonly isUnwanted?: () => Promise<boolean>;
}

/**
 * Waits until the job has one of the statuses or has concluded. Errors: QmpFailed where the session
 * ends or the job is gone; the signal's reason when it aborts (the job goes on).
 */
export async function waitForJob(
  qmp: QmpClient,
  id: string,
  statuses: readonly JobStatus[],
  wait: JobWait = {},
): Promise<QmpJob> {
  using events = qmp.watchEvents();
  for (;;) {
    wait.signal?.throwIfAborted();
    const job = await findJob(qmp, id);
    if (job === undefined) {
      throw new KluisError("QmpFailed", `Cannot wait for job "${id}" of QEMU: it is gone`);
    }
    if (job.status === "concluded" || statuses.includes(job.status)) return job;
    if ((await wait.isUnwanted?.()) === true) return job;
    await nextStatusChange(events, wait.signal);
  }
}

async function nextStatusChange(
  events: ReturnType<QmpClient["watchEvents"]>,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (;;) {
    const event = await events.next(JOB_POLL_MS, signal);
    if (event === undefined || event.name === "JOB_STATUS_CHANGE") return;
  }
}

/**
 * Ends the job whatever its status, without its last step, and dismisses it. Returns once it is
 * gone; it is no error if there is none.
 */
export async function cancelJob(qmp: QmpClient, id: string): Promise<void> {
  const job = await findJob(qmp, id);
  if (job === undefined) return;
  if (job.status !== "concluded") {
    try {
      await qmp.execute("job-cancel", { id });
    } catch (error) {
      // It may have concluded meanwhile, which the wait below sees.
      if (!isQmpRefusal(error)) throw error;
    }
    await waitForJob(qmp, id, ["concluded"]);
  }
  await qmp.execute("job-dismiss", { id });
}

/** Dismisses a concluded job. Errors: QmpFailed with the job's own error, where it has one. */
export async function dismissJob(qmp: QmpClient, job: QmpJob): Promise<void> {
  await qmp.execute("job-dismiss", { id: job.id });
  if (job.error === undefined) return;
  throw new KluisError("QmpFailed", `Cannot complete job "${job.id}" of QEMU: ${job.error}`);
}

function toJob(entry: JsonObject): QmpJob {
  const error = entry["error"];
  return {
    id: String(entry["id"]),
    status: String(entry["status"]),
    error: typeof error === "string" ? error : undefined,
    doneUnits: Number(entry["current-progress"] ?? 0),
    allUnits: Number(entry["total-progress"] ?? 0),
  };
}
