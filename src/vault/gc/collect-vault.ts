/** Runs a collection of a vault; docs/design/gc-and-locking.md. */
import { KluisError } from "#base/kluis-error.ts";
import { silentMsDefault } from "#vault/limits.ts";
import { createSaltSource, createSessionId } from "./backup-session.ts";
import {
  collect,
  type CollectionEnd,
  type CollectionPolicy,
  withdraw,
} from "./collect-protocol.ts";
import { VaultCollectionWork, type WorkTotals } from "./collection-work.ts";
import { compactInventory } from "#vault/inventory/inventory.ts";
import { sayFarewell } from "./farewell.ts";
import { Heartbeat } from "./heartbeat.ts";
import type { MarkerDeps } from "./marker.ts";
import type { CollectionLimits, CollectionPlan } from "./plan-collection.ts";
import { runSteps, type StepDeps } from "./run-steps.ts";
import { type Session, toCollection } from "./session-protocol.ts";
import type { Step, Steps } from "./steps.ts";

/** How to collect. */
export interface CollectionOptions extends CollectionLimits {
  /** A session without a sign of life for so long is ended; by default two hours. */
  readonly abandonAfterMs?: number | undefined;
  /** How long to wait for sessions that live; by default not at all. */
  readonly waitMs?: number | undefined;
  /** Plan only: nothing is condemned or removed. */
  readonly dryRun?: boolean | undefined;
  /** Packs and segments that may be removed; by default all. */
  readonly mayRemove?: ((name: string) => boolean) | undefined;
}

/** What a collection came to. */
export interface CollectionReport extends WorkTotals {
  readonly end: CollectionEnd | "planned";
  readonly plan: CollectionPlan | undefined;
  /** References that were followed, map nodes that were read, and how long that took in all. */
  readonly references: number;
  readonly nodes: number;
  readonly durationMs: number;
}

/** What a collection needs. */
export interface CollectionDeps extends StepDeps, MarkerDeps {
  readonly readRoots: (manifest: string) => Promise<readonly Uint8Array[]>;
}

/**
 * Collects. Errors leave nothing removed but what had been decided: BlockMissing, ObjectCorrupt,
 * ObjectNotFound (never) where what is needed cannot be read, CollectionRefused (after-change), those
 * of the store. `end` says of a collection that did not come to its end that another lives.
 */
export async function collectVault(
  deps: CollectionDeps,
  options: CollectionOptions = {},
): Promise<CollectionReport> {
  const startMs = deps.clock.monotonicMs();
  const session = toCollection(createSessionId(deps.random));
  const salts = createSaltSource(deps.random, session.id);
  let plan: CollectionPlan | undefined;
  const work = new VaultCollectionWork({
    ...deps,
    salts,
    limits: options,
    mayRemove: options.mayRemove,
    onPlan: (made) => {
      plan = made;
      if (options.dryRun === true) throw new PlanOnly();
    },
  });
  const end = await runCollection(session, work, { deps: { ...deps, random: salts }, options });
  const { references, nodes } = work.marker.totals;
  const durationMs = deps.clock.monotonicMs() - startMs;
  return { ...work.totals, end, plan, references, nodes, durationMs };
}

/** Ends a dry run in the midst of the protocol. */
class PlanOnly extends Error {}

async function runCollection(
  session: Session,
  work: VaultCollectionWork,
  run: { readonly deps: CollectionDeps; readonly options: CollectionOptions },
): Promise<CollectionReport["end"]> {
  const { deps, options } = run;
  const { store, keys, signal } = deps;
  // First, for each part that is put lists those that are there.
  if (options.dryRun !== true) await compactInventory({ store, keys, signal });
  await using _ = new Heartbeat(session.id, deps);
  let mayHaveDecided = false;
  const steps = watch(collect(session, work, createPolicy(deps, options)), ({ op, why }) => {
    if (op === "put" && why === "decide-if-absent") mayHaveDecided = true;
  });
  try {
    return await runSteps(steps, deps);
  } catch (error) {
    // What was decided another collection takes up; what was not is taken back, as far as that goes.
    if (!mayHaveDecided) await sayFarewell(withdraw(session, "gave-up"), deps);
    if (error instanceof PlanOnly) return "planned";
    throw error;
  }
}

function* watch<T>(steps: Steps<T>, onStep: (step: Step) => void): Steps<T> {
  let answer: unknown;
  for (;;) {
    const { done, value } = steps.next(answer);
    if (done === true) return value;
    onStep(value);
    answer = yield value;
  }
}

/** Times are those of different hosts: only who is ended rests on them, never whether data is. */
function createPolicy(deps: CollectionDeps, options: CollectionOptions): CollectionPolicy {
  const silentMs = options.abandonAfterMs ?? silentMsDefault;
  const deadlineMs = deps.clock.monotonicMs() + (options.waitMs ?? 0);
  return {
    // Also where the sign is from the future: a host whose clock ran ahead may be dead all the same.
    isSilent: ({ lastSignMs }) => Math.abs(deps.clock.nowMs() - lastSignMs) > silentMs,
    givesUp: () => deps.clock.monotonicMs() >= deadlineMs,
  };
}

/** Runs steps that are no collection, as a deletion is. */
export async function runDeletion(
  steps: Steps<boolean>,
  deps: StepDeps,
  pointId: string,
): Promise<void> {
  if (await runSteps(steps, deps)) return;
  throw new KluisError(
    "RecoveryPointNotFound",
    `Cannot delete recovery point "${pointId}": there is none of that id`,
  );
}
