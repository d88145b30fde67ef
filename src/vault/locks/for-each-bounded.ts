/** Asks about many objects, some at a time. */
import { lockRequestsInFlight } from "#vault/limits.ts";
import { BoundedWork } from "#vault/verify/bounded-work.ts";

/** Runs `work` for each name, in any order; throws the first failure when all that began has ended. */
export async function forEachBounded(
  names: readonly string[],
  work: (name: string) => Promise<void>,
): Promise<void> {
  const running = new BoundedWork(lockRequestsInFlight);
  try {
    for (const name of names) await running.start(() => work(name));
  } finally {
    await running.settle();
  }
  await running.end();
}
