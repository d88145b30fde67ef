/** Work that runs ahead of who takes its results. */

/**
 * The results of `work` for each item, in their order; up to `most` pieces run ahead. Items are taken
 * when there is room. Ends, also early, when all that began has ended.
 */
export async function* inOrder<T, R>(
  items: Iterable<T>,
  most: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const running: Promise<R>[] = [];
  try {
    for (const item of items) {
      const started = work(item);
      // Its error is thrown in its turn.
      void Promise.allSettled([started]);
      running.push(started);
      if (running.length >= most) yield await (running.shift() as Promise<R>);
    }
    for (let next = running.shift(); next !== undefined; next = running.shift()) yield await next;
  } finally {
    await Promise.allSettled(running);
  }
}
