/** Jobs of libvirt on the disks of a running domain: at most one a disk. Internal to this folder. */
import type { Clock } from "#base/clock.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import type { CommitWait } from "#drivers/layers/layered-vm.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";

/** Each look is a process. */
const JOB_POLL_MS = 200;
/** A commit of a whole disk on a slow one. */
const JOB_TIMEOUT_MS = 24 * 3_600_000;

/** The job of a disk. */
export interface BlockJobPlace {
  readonly virsh: Virsh;
  readonly uuid: string;
  readonly disk: string;
}

/** A job, and how far it is. */
export interface BlockJob {
  /** As virsh calls it, for example `Block Commit`. */
  readonly type: string;
  readonly doneBytes: number;
  readonly allBytes: number;
}

/** The job of a disk; `undefined` where it has none. */
export async function findBlockJob(place: BlockJobPlace): Promise<BlockJob | undefined> {
  const text = await place.virsh.ask(["blockjob", place.uuid, place.disk, "--raw"]);
  const type = /^\s*type=(.*\S)/m.exec(text)?.[1] ?? "";
  const done = /^\s*cur=(\d+)$/m.exec(text)?.[1];
  const all = /^\s*end=(\d+)$/m.exec(text)?.[1];
  if (done === undefined || all === undefined) return undefined;
  return { type, doneBytes: Number(done), allBytes: Number(all) };
}

/** Waits until the disk has no job; false where it is not wanted any more, and goes on. */
export async function waitForBlockJob(
  place: BlockJobPlace,
  wait: CommitWait & { readonly clock: Clock },
): Promise<boolean> {
  const { clock, signal } = wait;
  let isUnwanted = false;
  const isOver = async (): Promise<boolean> => {
    if ((await findBlockJob(place)) === undefined) return true;
    isUnwanted = await wait.isUnwanted();
    return isUnwanted;
  };
  await waitUntil(isOver, { timeoutMs: JOB_TIMEOUT_MS, pollMs: JOB_POLL_MS, clock, signal });
  return !isUnwanted;
}

/** Ends a job without its last step; it is no error where it has ended. */
export async function abortBlockJob(place: BlockJobPlace): Promise<void> {
  try {
    await place.virsh.run(["blockjob", place.uuid, place.disk, "--abort"]);
  } catch (error) {
    if (!isVirshRefusal(error)) throw error;
    if ((await findBlockJob(place)) !== undefined) throw error;
  }
}
