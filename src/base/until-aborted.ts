/** Waiting that can be given up, for work that others wait for too. */

/** Settles as `work` does, or rejects with the signal's reason if that aborts first; `work` goes on. */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    const end = (): void => signal.removeEventListener("abort", onAbort);
    work.then(resolve, reject).finally(end);
  });
}
