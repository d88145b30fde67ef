/** Does one thing with many items, some at a time. */
import { BoundedWork } from "./bounded-work.ts";

/**
 * Runs `work` for each item, in any order, at most `most` at once; throws the first failure when all
 * that began has ended.
 */
export async function forEachBounded<T>(
  items: Iterable<T>,
  most: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const running = new BoundedWork(most);
  try {
    for (const item of items) await running.start(() => work(item));
  } finally {
    await running.settle();
  }
  await running.end();
}
