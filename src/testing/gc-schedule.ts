/** One schedule of the simulation of collections: who takes part, and what must hold in the end. */
import type { Rule } from "#vault/gc/steps.ts";
import { backUpOften, collectOften, deleteOften, findGarbage } from "./gc-parties.ts";
import { LossFound, SimWorld } from "./gc-world.ts";

/** What a schedule came to. */
export interface ScheduleEnd {
  /** What was lost, or not freed; `undefined` where all is well. */
  readonly problem: string | undefined;
  /** Commits that were acknowledged. */
  readonly commits: number;
}

/** Runs the schedule of that seed; with `broken` a rule of the protocol is not kept. */
export function runSchedule(seed: number, broken?: Rule): ScheduleEnd {
  const world = new SimWorld(seed, broken);
  const names = { next: 1 };
  const late = (): number => world.random.below(400);
  const shared = world.random.below(2);
  try {
    world.run([
      { steps: backUpOften(world, names, { item: 0, backups: 3 }), startsAt: 0 },
      { steps: backUpOften(world, names, { item: shared, backups: 2 }), startsAt: late() },
      { steps: backUpOften(world, names, { item: 0, backups: 2 }), startsAt: late() },
      { steps: collectOften(world, names, { collections: 2 }), startsAt: late() },
      { steps: collectOften(world, names, { collections: 2 }), startsAt: late() },
      { steps: deleteOften(world, 3), startsAt: late() },
    ]);
    world.assertNothingLost();
    world.run([
      {
        steps: collectOften(world, names, { collections: 2, isThorough: true }),
        startsAt: 0,
        isSteady: true,
      },
    ]);
    world.assertNothingLost();
  } catch (error) {
    if (error instanceof LossFound) return { problem: error.message, commits: 0 };
    throw error;
  }
  const [garbage] = readGarbage(world);
  const problem = garbage === undefined ? undefined : `${garbage} holds garbage`;
  return { problem, commits: world.acknowledged.size };
}

function readGarbage(world: SimWorld): readonly string[] {
  let garbage: readonly string[] = [];
  function* read() {
    garbage = yield* findGarbage();
  }
  world.run([{ steps: read(), startsAt: 0, isSteady: true }]);
  return garbage;
}
