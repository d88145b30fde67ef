/**
 * Schedules of the simulation that are written by hand, each about one rule of the protocol that
 * chance finds late: who stops where, and who goes on meanwhile.
 */
import { Caller, LossFound, type SimStore } from "#testing/gc-store.ts";
import { deletePoint } from "#vault/gc/session-protocol.ts";
import { list, type Rule, type Step, type Steps, type Why } from "#vault/gc/steps.ts";
import { collectAll } from "./gc-chance.ts";
import { backUp, collectOnce, type CollectionPlan, type Names } from "./gc-parties.ts";
import { SimWorld } from "./gc-world.ts";

/** A party whose steps are taken one by one. */
class Actor {
  readonly #store: SimStore;
  readonly #steps: Steps<void>;
  readonly #caller = new Caller();
  #step: Step | undefined;
  #hasEnded = false;

  constructor(store: SimStore, steps: Steps<void>) {
    this.#store = store;
    this.#steps = steps;
    this.#resume(undefined);
  }

  /** Goes on until the next request is of that kind, which is not carried out yet, or to the end. */
  until(op: Step["op"], why: Why, prefix = ""): void {
    for (let taken = 0; taken < stepsMax; taken++) {
      const step = this.#step;
      if (this.#hasEnded || step === undefined) return;
      const name = nameIn(step);
      if (step.op === op && step.why === why && name.startsWith(prefix)) return;
      this.#take(step);
    }
    throw new Error("a party of a schedule does not come to an end");
  }

  /** Carries the next request out; the answer is lost, so it will be made once more. */
  loseAnswer(): void {
    if (this.#step === undefined) return;
    this.#store.carryOut(this.#caller, this.#step);
    this.#caller.next();
  }

  /** Goes on to the end. */
  finish(): void {
    this.until("work", "choose");
  }

  #take(step: Step): void {
    const answer = this.#store.carryOut(this.#caller, step);
    if (answer !== "under way") this.#resume(answer.value);
  }

  #resume(answer: unknown): void {
    const { done, value } = this.#steps.next(answer);
    this.#caller.next();
    this.#hasEnded = done === true;
    this.#step = done === true ? undefined : value;
  }
}

/** What a request is about; the first name where there are several. */
function nameIn(step: Step): string {
  if (step.op === "remove") return step.names[0] ?? "";
  return "name" in step ? step.name : "";
}

/** Most requests that one party makes in a schedule. */
const stepsMax = 1000;

/** Whom a directed schedule is made of. Items are numbers, and each has one block: 1. */
class Stage {
  readonly #store: SimStore;
  readonly #names: Names;

  constructor(store: SimStore, names: Names) {
    this.#store = store;
    this.#names = names;
  }

  /** A backup that refers to block 1: as its base does, or anew. */
  backUp(item: number, from: "base" | "disk"): Actor {
    const isFull = from === "disk";
    const plan = { item, isFull, keeps: () => true, rounds: isFull ? [[1]] : [] };
    return new Actor(this.#store, backUp(this.#names, plan, this.#store.acknowledged));
  }

  /** A collection that takes all packs but those in `spared`; by default everybody seems dead to it. */
  collect(plan: Partial<CollectionPlan> & { readonly spared?: ReadonlySet<string> } = {}): Actor {
    const { spared } = plan;
    const collection: CollectionPlan = {
      choosePacks: ({ input }) =>
        input.packs.map(({ name }) => name).filter((name) => spared?.has(name) !== true),
      isSilent: () => true,
      givesUp: () => true,
      ...plan,
    };
    return new Actor(this.#store, collectOnce(this.#names, collection));
  }

  /** Deletes every point of an item. */
  delete(item: number): Actor {
    return new Actor(this.#store, deleteAll(item));
  }

  /** Names of all packs that are there. */
  packs(): ReadonlySet<string> {
    return new Set([...this.#store.objects.keys()].filter((name) => name.startsWith("packs/")));
  }
}

function* deleteAll(item: number): Steps<void> {
  const prefix = `points/${item.toString(16).padStart(32, "0")}/`;
  for (const { name } of yield* list("choose", prefix)) yield* deletePoint(name);
}

/**
 * A pack that a collection was about to remove is removed by another one, which forgets the record as
 * well; the pack comes back by a retry of its put, and the first collection wakes.
 */
function ownerRemovesRecord(stage: Stage): void {
  const slow = stage.backUp(0, "disk");
  slow.until("put", "choose", "packs/");
  slow.loseAnswer();
  const stopped = stage.collect();
  stopped.until("remove", "remove-in-order", "packs/");
  stage.collect().finish();
  slow.finish();
  stage.backUp(1, "disk").finish();
  stopped.finish();
}

/** The root is deleted after a backup that builds on it began, and before a collection looks again. */
function marksBeforeLeases(stage: Stage): void {
  const base = stage.backUp(0, "disk");
  base.until("put", "commit-if-absent");
  const collection = stage.collect();
  collection.until("put", "condemn-first");
  base.finish();
  collection.until("list", "roots-again");
  const increment = stage.backUp(0, "base");
  increment.until("put", "commit-if-absent");
  stage.delete(0).finish();
  collection.finish();
  increment.finish();
}

/** A point is deleted and collected while its writer still repeats the put that committed it. */
function markStays(stage: Stage): void {
  const slow = stage.backUp(0, "disk");
  slow.until("put", "commit-if-absent");
  slow.loseAnswer();
  stage.delete(0).finish();
  stage.collect().finish();
  slow.finish();
}

/**
 * The only other copy of a block is in a pack that a collection removes for the second time, because it
 * did not hear of the first; the pack came back meanwhile by a retry of its put.
 */
function recordsAgain(stage: Stage): void {
  const slow = stage.backUp(1, "disk");
  slow.until("put", "choose", "packs/");
  slow.loseAnswer();
  const condemned = stage.packs();
  const whole = stage.backUp(0, "disk");
  whole.finish();
  const spared = new Set([...stage.packs()].filter((name) => !condemned.has(name)));
  const stopped = stage.collect({ spared });
  stopped.until("remove", "remove-in-order", "packs/");
  stopped.loseAnswer();
  const second = stage.collect();
  second.until("list", "records-again");
  slow.finish();
  second.finish();
  stopped.finish();
}

/**
 * A collection is fenced before it decides, and another one forgets its record and removes the packs; one
 * comes back by a retry of its put, and the fenced collection wakes.
 */
function decideIfAbsent(stage: Stage): void {
  const slow = stage.backUp(0, "disk");
  slow.until("put", "choose", "packs/");
  slow.loseAnswer();
  const fenced = stage.collect();
  fenced.until("put", "decide-if-absent");
  stage.collect().finish();
  slow.finish();
  stage.backUp(1, "disk").finish();
  fenced.finish();
}

/** The base of a backup is deleted and collected before it puts its lease. */
function baseExists(stage: Stage): void {
  stage.backUp(0, "disk").finish();
  const increment = stage.backUp(0, "base");
  increment.until("put", "lease-first");
  stage.delete(0).finish();
  stage.collect().finish();
  increment.finish();
}

/** Rules that chance finds late, and what happens without them. */
const directedSchedules: ReadonlyMap<Rule, (stage: Stage) => void> = new Map([
  ["owner-removes-record", ownerRemovesRecord],
  ["marks-before-leases", marksBeforeLeases],
  ["delete-by-mark", marksBeforeLeases],
  ["mark-stays", markStays],
  ["records-again", recordsAgain],
  ["decide-if-absent", decideIfAbsent],
  ["base-exists", baseExists],
]);

/** Rules that have a schedule written by hand. */
export const directedRules: readonly Rule[] = [...directedSchedules.keys()];

/**
 * Runs the schedule about `rule`, with the rule kept or broken. Gives what was lost or not freed;
 * `undefined` where all is well.
 */
export function runDirected(rule: Rule, isBroken: boolean): string | undefined {
  const world = new SimWorld(0, isBroken ? rule : undefined);
  const names = { next: 1 };
  try {
    directedSchedules.get(rule)?.(new Stage(world.store, names));
    world.store.assertNothingLost();
    world.run([{ steps: collectAll(world, names), startsAt: 0, isSteady: true }]);
    world.store.assertNothingLost();
  } catch (error) {
    if (error instanceof LossFound) return error.message;
    throw error;
  }
  return world.store.findGarbage()[0];
}
