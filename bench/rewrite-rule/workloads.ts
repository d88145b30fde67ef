/** What a guest writes between two backups. */
import { windowPages } from "#formats/geometry.ts";
import { createPrng } from "#testing/seed.ts";

/** Changed pages of the next increment, ascending, each once. */
export type Workload = () => readonly number[];

/** Pages of an increment of workload P. */
export const workloadPages = 2621;
const skewShare = 0.8;

/** A workload of that name on a disk of `pages` pages; the same seed gives the same pages. */
export function createWorkload(name: WorkloadName, pages: number, seed: number): Workload {
  const random = createPrng(seed);
  const anywhere = (): number => random.below(pages);
  const hot: number[] = [];
  for (let window = 0; window < pages / windowPages; window++) {
    if (random.below(5) === 0) hot.push(window);
  }
  const hotPage = (): number =>
    (hot[random.below(hot.length)] ?? 0) * windowPages + random.below(windowPages);
  let logEnd = 0;
  const draw = (count: number, page: () => number): readonly number[] => {
    const drawn = new Set<number>();
    while (drawn.size < count) drawn.add(page());
    return [...drawn].sort((a, b) => a - b);
  };
  const drawLog = (): readonly number[] => {
    let left = Math.floor(workloadPages * skewShare);
    return draw(workloadPages, () => (left-- > 0 ? logEnd++ % pages : anywhere()));
  };
  const drawSkewed = (): number => (random.below(100) < skewShare * 100 ? hotPage() : anywhere());
  const workloads: Readonly<Record<WorkloadName, Workload>> = {
    P: () => draw(workloadPages, anywhere),
    skewed: () => draw(workloadPages, drawSkewed),
    log: drawLog,
    small: () => draw(Math.floor(workloadPages / 8), anywhere),
  };
  return workloads[name];
}

/**
 * `P`: 2,621 pages anywhere. `skewed`: as many, 80 % of them in a fifth of the windows. `log`: as
 * many, 80 % of them one run that goes round the disk. `small`: an eighth as many, anywhere.
 */
export type WorkloadName = "P" | "skewed" | "log" | "small";

/** All workloads. */
export const workloadNames: readonly WorkloadName[] = ["P", "skewed", "log", "small"];
