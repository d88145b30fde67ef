/** Watches the worker threads that this process starts, so that a test can count and kill them. */
import { syncBuiltinESMExports } from "node:module";
import workerThreads, { Worker } from "node:worker_threads";

/** Threads that are alive, in the order of their start. */
export interface ThreadWatch extends Disposable {
  readonly alive: ReadonlySet<Worker>;
  /** How many were started. */
  started(): number;
}

/** Watches from now on until it is disposed. One at a time. */
export function watchThreads(): ThreadWatch {
  const alive = new Set<Worker>();
  let started = 0;
  class WatchedWorker extends Worker {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args);
      started++;
      alive.add(this);
      this.once("exit", () => alive.delete(this));
    }
  }
  workerThreads.Worker = WatchedWorker;
  syncBuiltinESMExports();
  return {
    alive,
    started: () => started,
    [Symbol.dispose]() {
      workerThreads.Worker = Worker;
      syncBuiltinESMExports();
    },
  };
}
