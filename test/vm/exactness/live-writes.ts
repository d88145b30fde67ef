/** Jobs of a guest that go on over the instant of a backup: page after page, and durable all the time. */
import { basename } from "node:path";

import type { GuestExec } from "../../../lab/guest-exec.ts";
import { runInGuest, startInGuest } from "../../../lab/guest.ts";
import { planFio } from "../../../lab/plan-fio.ts";

/** Waits until each disk, $1 …, has taken some more writes. */
const waitForWrites = `writes() { awk '{ print $5 }' "/sys/block/$1/stat"; }
for disk in "$@"; do
  least=$(($(writes "$disk") + 4)); tries=0
  until [ "$(writes "$disk")" -ge "$least" ]; do
    usleep 20000; tries=$((tries + 1)); [ "$tries" -lt 500 ] || exit 1
  done
done`;

/** A job of fio on a device of the guest, and fio's options for how fast it goes and how often it syncs. */
export interface LiveJob {
  readonly device: string;
  readonly job: readonly string[];
  readonly pace: readonly string[];
}

/** Starts the jobs and waits until each device is written to. Errors: AgentFailed where none is. */
export async function startLiveJobs(exec: GuestExec, jobs: readonly LiveJob[]): Promise<void> {
  for (const { device, job, pace } of jobs) {
    await startInGuest(exec, ["fio", ...planFio(device, job), ...pace]);
  }
  const disks = jobs.map(({ device }) => basename(device));
  await runInGuest(exec, waitForWrites, disks);
}

/** Waits until no job runs any more. */
export async function waitForJobs(exec: GuestExec): Promise<void> {
  await runInGuest(exec, "while pidof fio >/dev/null; do usleep 50000; done");
}
