/** One schedule of the simulation of collections: who takes part, and what must hold in the end. */
import type { Rule } from "#vault/gc/steps.ts";
import { backUpOften, collectAll, collectOften, deleteOften } from "./gc-chance.ts";
import type { Names } from "./gc-parties.ts";
import { LossFound } from "./gc-store.ts";
import { type Party, SimWorld } from "./gc-world.ts";

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
  try {
    world.run(partiesOf(world, names));
    world.store.assertNothingLost();
    world.run([{ steps: collectAll(world, names), startsAt: 0, isSteady: true }]);
    world.store.assertNothingLost();
  } catch (error) {
    if (error instanceof LossFound) return { problem: error.message, commits: 0 };
    throw error;
  }
  const [garbage] = world.store.findGarbage();
  const problem = garbage === undefined ? undefined : `${garbage} stays for ever`;
  return { problem, commits: world.store.acknowledged.size };
}

/** Who takes part: a few of each kind, or many collections, or many deletions. */
function partiesOf(world: SimWorld, names: Names): readonly Party[] {
  const late = (): number => world.random.below(400);
  const kind = world.random.below(3);
  const parties: Party[] = [];
  for (let at = 0; at < 3; at++) {
    const item = at === 1 ? world.random.below(2) : 0;
    const backups = at === 0 ? 3 : 2;
    parties.push({ steps: backUpOften(world, names, { item, backups }), startsAt: late() * at });
  }
  for (let at = kind === 1 ? 4 : 2; at > 0; at--) {
    const collections = kind === 1 ? 3 : 2;
    parties.push({ steps: collectOften(world, names, { collections }), startsAt: late() });
  }
  for (let at = kind === 2 ? 2 : 1; at > 0; at--) {
    const deletions = kind === 2 ? 6 : 2;
    parties.push({ steps: deleteOften(world, deletions), startsAt: late() });
  }
  return parties;
}
