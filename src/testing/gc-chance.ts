/** What parties of a simulated vault do where chance decides. */
import { pointPrefix } from "#formats/store-names.ts";
import { deletePoint } from "#vault/gc/session-protocol.ts";
import { list, type Steps } from "#vault/gc/steps.ts";
import { backUp, collectOnce, type Names, type PacksToChoose } from "./gc-parties.ts";
import type { SimWorld } from "./gc-world.ts";

/** Blocks of the simulated disks are numbers below this. */
const blockKinds = 9;

/** So many backups of one item, each an increment of the newest point, some of them full. */
export function* backUpOften(
  world: SimWorld,
  names: Names,
  options: { readonly item: number; readonly backups: number },
): Steps<void> {
  for (let at = 0; at < options.backups; at++) {
    const plan = {
      item: options.item,
      isFull: world.oneIn(4),
      keeps: () => !world.oneIn(3),
      rounds: Array.from({ length: 1 + world.random.below(2) }, () => blocksOf(world)),
    };
    yield* backUp(names, plan, world.store.acknowledged);
  }
}

function blocksOf(world: SimWorld): readonly number[] {
  return Array.from({ length: world.random.below(4) }, () => world.random.below(blockKinds));
}

/** Deletes so many points, any of any item. */
export function* deleteOften(world: SimWorld, deletions: number): Steps<void> {
  for (let at = 0; at < deletions; at++) {
    const names = yield* list("choose", pointPrefix);
    const choice = names[world.random.below(Math.max(1, names.length))];
    if (choice !== undefined && !choice.isTombstone) yield* deletePoint(choice.name);
  }
}

/** So many collections; with `isThorough` nobody counts as alive, and nothing is left to chance. */
export function* collectOften(
  world: SimWorld,
  names: Names,
  options: { readonly collections: number; readonly isThorough?: true },
): Steps<void> {
  const isThorough = options.isThorough === true;
  for (let at = 0; at < options.collections; at++) {
    yield* collectOnce(names, {
      choosePacks: (state) => choosePacks(isThorough ? undefined : world, state),
      isSilent: () => isThorough || world.oneIn(6),
      givesUp: () => world.oneIn(20),
    });
  }
}

/** Without a world: everything that holds anything that nobody needs. */
function choosePacks(
  world: SimWorld | undefined,
  { input, entries, marked }: PacksToChoose,
): string[] {
  const held = new Map<string, readonly number[]>();
  for (const { name, blocks } of entries) held.set(name, blocks);
  // One copy of a marked block is kept: that of the first pack which holds it.
  const kept = new Set<number>();
  const names = input.packs.map(({ name }) => name);
  return names.filter((name) => {
    if (input.condemned.has(name)) return true;
    const isLive = input.live.has(name.slice(name.lastIndexOf("-") + 1));
    if (isLive && world?.oneIn(4) === false) return false;
    const blocks = (held.get(name) ?? []).filter((block) => marked.has(block));
    if (world?.oneIn(4) === true) return true;
    const isGarbage = blocks.every((block) => kept.has(block));
    const isMixed = (held.get(name) ?? []).some((block) => !marked.has(block));
    if (isGarbage || (world === undefined && isMixed)) return true;
    for (const block of blocks) kept.add(block);
    return false;
  });
}

/** Two collections after which nothing may stay that nobody needs. */
export function* collectAll(world: SimWorld, names: Names): Steps<void> {
  yield* collectOften(world, names, { collections: 2, isThorough: true });
}
