/** Expiry of snapshots: finds out what goes, and lets it go. */
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import type { Clock } from "#base/clock.ts";
import type { Hypervisor, VmSnapshot } from "#ports/hypervisor.ts";
import { type ExpiryFacts, type ExpiryPlan, planExpiry } from "#protect/plan-expiry.ts";

/** Who reads a snapshot is found out by releasing it; each round finds at least one, or is the last. */
const roundsMax = 33;

/** What an expiry needs. */
export interface ExpiryDeps {
  readonly hypervisor: Pick<Hypervisor, "listSnapshots" | "releaseSnapshots">;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
}

/** What an expiry came to. Snapshots are named by their recovery points, else by their own ids. */
export interface ExpiryReport {
  /** They went, whether early or not. */
  readonly expired: readonly string[];
  /** Of these, the ones that went before their days were over. */
  readonly early: readonly string[];
  /** What is left to do, and what was given up; for people. */
  readonly warnings: readonly string[];
}

/** The name of a snapshot for people: its recovery point's. */
export function snapshotName(snapshot: Pick<VmSnapshot, "id" | "label">): string {
  return snapshot.label?.pointId ?? snapshot.id;
}

/**
 * Lets go of the snapshots of a VM whose days are over, and goes on with merges that were cut off.
 *
 * @param room How many have to go at least, early where it must be; those that are read stay.
 *
 * Errors: those of the hypervisor, but for readers and a snapshot that is due, which only delay.
 */
export async function expireSnapshots(
  vmId: string,
  room: number,
  deps: ExpiryDeps,
): Promise<ExpiryReport> {
  const { hypervisor, signal } = deps;
  const before = await hypervisor.listSnapshots(vmId, signal);
  const read = new Set<string>();
  let plan: ExpiryPlan = { due: [], early: [], bases: [] };
  let delay: KluisError | undefined;
  let left = before;
  for (let round = 0; round < roundsMax; round++) {
    const gone = before.length - left.length;
    const next = planExpiry(left.map(toFacts(read)), {
      nowMs: deps.clock.nowMs(),
      room: Math.max(0, room - gone),
    });
    const ids = [...next.due, ...next.early, ...next.bases];
    // The first round also goes on with merges that were cut off.
    if (ids.length === 0 && round > 0) break;
    plan = join(plan, next);
    delay = (await release(vmId, new Set(ids), deps)) ?? delay;
    left = await hypervisor.listSnapshots(vmId, signal);
    // Somebody else works on the VM: what is here now says nothing of who reads.
    if (isKluisError(delay, "Busy")) break;
    const stayed = ids.filter((id) => left.some((snapshot) => snapshot.id === id));
    if (stayed.length === 0) break;
    for (const id of stayed) read.add(id);
  }
  return toReport(before, left, { plan, delay });
}

function toFacts(read: ReadonlySet<string>): (snapshot: VmSnapshot) => ExpiryFacts {
  return ({ id, takenAtMs, label, baseOf }) => ({
    id,
    takenAtMs,
    days: label?.days,
    isBase: baseOf.length > 0,
    isRead: read.has(id),
  });
}

function join(a: ExpiryPlan, b: ExpiryPlan): ExpiryPlan {
  return {
    due: [...a.due, ...b.due],
    early: [...a.early, ...b.early],
    bases: [...a.bases, ...b.bases],
  };
}

/** Releases; the error where something is left for later. */
async function release(
  vmId: string,
  ids: ReadonlySet<string>,
  deps: ExpiryDeps,
): Promise<KluisError | undefined> {
  try {
    await deps.hypervisor.releaseSnapshots(vmId, ids, deps.signal);
    return undefined;
  } catch (error) {
    if (isKluisError(error, "SnapshotInUse") || isKluisError(error, "Busy")) return error;
    throw error;
  }
}

function toReport(
  before: readonly VmSnapshot[],
  left: readonly VmSnapshot[],
  end: { readonly plan: ExpiryPlan; readonly delay: KluisError | undefined },
): ExpiryReport {
  const gone = before.filter(({ id }) => !left.some((snapshot) => snapshot.id === id));
  const { early, bases } = end.plan;
  const wentEarly = gone.filter(({ id }) => early.includes(id) || bases.includes(id));
  const later = "the next expiry goes on with it";
  return {
    expired: gone.map(snapshotName),
    early: wentEarly.map(snapshotName),
    warnings: [
      ...wentEarly.map(
        (snapshot) => `Snapshot ${snapshotName(snapshot)} expired early, to make room`,
      ),
      ...(gone.some(({ id }) => bases.includes(id))
        ? ["The base of the next transfer expired early: it will compare by checksum"]
        : []),
      ...(end.delay === undefined ? [] : [`${end.delay.message} (${later})`]),
    ],
  };
}
