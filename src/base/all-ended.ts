/** Waiting for several pieces of work so that none goes on behind an error. */

/** As `Promise.all`, but rejects, with the first error in the order given, only when all have ended. */
export async function allEnded<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}
