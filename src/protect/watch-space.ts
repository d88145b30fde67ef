/** Watches the room beside a VM's disks while its snapshots are read: the guest's need comes first. */
import { isKluisError, toKluisError } from "#base/kluis-error.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import { expireSnapshots, type ExpiryDeps } from "#protect/expire-snapshots.ts";
import { findShortage, type SpaceWish } from "#protect/snapshot-space.ts";

/** How often is looked; a guest that writes 250 MB/s uses the usual reserve in this time. */
export const spacePollMs = 1000;

/** What is watched. */
export interface SpaceWatch {
  readonly vmId: string;
  /** Names of the disks of the instant that is sent. */
  readonly disks: readonly string[];
  readonly space: Pick<SpaceWish, "reserveBytes">;
}

/** What the watch needs. */
export interface SpaceWatchDeps extends Omit<ExpiryDeps, "hypervisor"> {
  readonly hypervisor: ExpiryDeps["hypervisor"] & Pick<Hypervisor, "readSpace" | "detach">;
}

/**
 * Does `work` while there is room. Where the reserve is touched the work's signal fires, and when it
 * has ended the older snapshots go, and if that is not enough all of them: their layers are merged
 * away while the guest goes on.
 *
 * Errors: those of `work`; SnapshotNoSpace (after-change), which says what became of the snapshots.
 */
export async function withSpaceWatch<T>(
  watch: SpaceWatch,
  deps: SpaceWatchDeps,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return await watchSpace(watch, deps, work, () => giveUp(watch, deps));
}

/**
 * Does `work` while there is room. Where the reserve is touched the work's signal fires, and when it
 * has ended `makeRoom` is done; by default ending the work makes room.
 *
 * Errors: those of `work`; SnapshotNoSpace (after-change).
 */
export async function watchSpace<T>(
  watch: SpaceWatch,
  deps: SpaceWatchDeps,
  work: (signal: AbortSignal) => Promise<T>,
  makeRoom: () => Promise<void> = () => Promise.resolve(),
): Promise<T> {
  const shortage = new AbortController();
  const ended = new AbortController();
  const signals = [shortage.signal, ...(deps.signal === undefined ? [] : [deps.signal])];
  const watching = pollSpace(watch, deps, { shortage, ended: ended.signal });
  try {
    return await work(AbortSignal.any(signals));
  } catch (error) {
    if (!shortage.signal.aborted || !isKluisError(shortage.signal.reason, "SnapshotNoSpace"))
      throw error;
    await makeRoom();
    throw shortage.signal.reason;
  } finally {
    ended.abort();
    await watching;
  }
}

async function pollSpace(
  watch: SpaceWatch,
  deps: SpaceWatchDeps,
  ends: { readonly shortage: AbortController; readonly ended: AbortSignal },
): Promise<void> {
  while (!ends.ended.aborted) {
    try {
      await deps.clock.sleep(spacePollMs, ends.ended);
      const problem = await findTakenRoom(watch, deps);
      if (problem !== undefined) ends.shortage.abort(problem);
    } catch (error) {
      // Not knowing is no reason to go on blindly.
      if (!ends.ended.aborted) ends.shortage.abort(toKluisError(error));
    }
    if (ends.shortage.signal.aborted) return;
  }
}

/** Frees what snapshots take, the newest last, until the reserve is there again. */
async function giveUp(watch: SpaceWatch, deps: SpaceWatchDeps): Promise<void> {
  const { hypervisor, signal } = deps;
  const { vmId } = watch;
  const snapshots = await hypervisor.listSnapshots(vmId, signal);
  await expireSnapshots(vmId, snapshots.length - 1, deps);
  if ((await findTakenRoom(watch, deps)) === undefined) return;
  await hypervisor.detach(vmId, signal);
}

/** The shortage where something of Kluis grows: copies of the instant, or layers of any snapshot. */
async function findTakenRoom(
  { vmId, disks, space }: SpaceWatch,
  { hypervisor, signal }: SpaceWatchDeps,
): Promise<ReturnType<typeof findShortage>> {
  const all = await hypervisor.readSpace(vmId, undefined, signal);
  const growing = all.filter(({ name, layers }) => layers > 1 || disks.includes(name));
  return findShortage(growing, space);
}
