/** fsync of directories, shared by all who wait for the same one; internal to this folder. */
import { constants } from "node:fs";

import { KluisError } from "#base/kluis-error.ts";
import { toStoreError } from "./file-errors.ts";
import type { FileSystem, OpenFile } from "./file-system.ts";

interface SyncState {
  readonly running: Promise<void>;
  /** Begins when `running` has ended; for those who changed the directory meanwhile. */
  next: Promise<void> | undefined;
}

/**
 * Syncs directories. A call is served by a sync that begins after it, so that it covers every
 * change made before; calls that come while one runs share the next.
 *
 * After one fsync has failed every later call fails: the kernel reports a lost write once, so a
 * second fsync of the same directory would call durable what is not.
 */
export class DirectorySyncs {
  readonly #files: FileSystem;
  readonly #states = new Map<string, SyncState>();
  #failure: KluisError | undefined;

  constructor(files: FileSystem) {
    this.#files = files;
  }

  /** Throws StoreUnavailable (backoff) once an fsync has failed. */
  assertHealthy(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Resolves when all changes of the directory made before the call are durable. */
  sync(path: string): Promise<void> {
    const state = this.#states.get(path);
    if (state === undefined) return this.#begin(path);
    state.next ??= state.running.then(
      () => this.#begin(path),
      () => this.#begin(path),
    );
    return state.next;
  }

  /** fsync of an open file that this process may not have written itself. */
  async syncHandle(handle: OpenFile): Promise<void> {
    this.assertHealthy();
    try {
      await handle.sync();
    } catch (error) {
      this.#failure ??= afterFailure(error);
      throw error;
    }
  }

  #begin(path: string): Promise<void> {
    const running = this.#syncPath(path).finally(() => {
      if (state.next === undefined) this.#states.delete(path);
    });
    const state: SyncState = { running, next: undefined };
    this.#states.set(path, state);
    return running;
  }

  async #syncPath(path: string): Promise<void> {
    this.assertHealthy();
    await using handle = await this.#files.open(path, constants.O_RDONLY | constants.O_DIRECTORY);
    await this.syncHandle(handle);
  }
}

function afterFailure(error: unknown): KluisError {
  const cause = toStoreError(error, "make a change durable");
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new KluisError(
    "StoreUnavailable",
    `Cannot write to the store: an earlier write may be lost. ${reason}`,
    { cause: error },
  );
}
