/** The life of a DiskWriter: open, then committed or dropped; shared by all writers. */
import { assert } from "#base/assert.ts";
import { assertInsideDisk } from "#base/range.ts";
import type { DiskWriter } from "#ports/disk.ts";
import { WrittenRanges } from "./written-ranges.ts";

/** What a kind of target does; ranges are checked, not empty, and the signal was not aborted. */
export interface WriterActions {
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>;
  /** Overwrites a range with zeros that holds data. */
  overwriteWithZeros(offsetBytes: number, lengthBytes: number): Promise<void>;
  /** Makes all durable, under its name. */
  commit(): Promise<void>;
  /** Closes what is open; where nothing was committed, removes the target. Safe to call again. */
  close(): Promise<void>;
}

/**
 * A DiskWriter of a target that is all zeros to begin with: zeroing what was never written is
 * nothing to do, so it stays sparse.
 *
 * Writes that have begun cannot be recalled: an aborted call rejects when its write has ended.
 */
export class FreshTargetWriter implements DiskWriter {
  readonly sizeBytes: number;
  readonly #actions: WriterActions;
  readonly #written = new WrittenRanges();
  readonly #calls = new Set<Promise<void>>();
  #state: "open" | "committing" | "committed" | "closed" = "open";

  constructor(sizeBytes: number, actions: WriterActions) {
    this.sizeBytes = sizeBytes;
    this.#actions = actions;
  }

  async write(offsetBytes: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#assertUsable(offsetBytes, bytes.byteLength);
    signal?.throwIfAborted();
    if (bytes.byteLength === 0) return;
    // Noted first: a write that fails half way has changed something.
    this.#written.add(offsetBytes, bytes.byteLength);
    await this.#track(this.#actions.write(offsetBytes, bytes));
    signal?.throwIfAborted();
  }

  async zero(offsetBytes: number, lengthBytes: number, signal?: AbortSignal): Promise<void> {
    this.#assertUsable(offsetBytes, lengthBytes);
    signal?.throwIfAborted();
    for (const { start, end } of this.#written.within(offsetBytes, lengthBytes)) {
      await this.#track(this.#actions.overwriteWithZeros(start, end - start));
      signal?.throwIfAborted();
    }
  }

  async commit(signal?: AbortSignal): Promise<void> {
    assert(this.#state === "open", "the target is open");
    signal?.throwIfAborted();
    assert(this.#calls.size === 0, "nothing is being written");
    this.#state = "committing";
    await this.#actions.commit();
    this.#state = "committed";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    await Promise.all(this.#calls);
    await this.#actions.close();
  }

  #assertUsable(offsetBytes: number, lengthBytes: number): void {
    assert(this.#state === "open", "the target is open");
    assertInsideDisk(this.sizeBytes, offsetBytes, lengthBytes);
  }

  async #track(call: Promise<void>): Promise<void> {
    const settled = call.catch(() => undefined);
    this.#calls.add(settled);
    try {
      await call;
    } finally {
      this.#calls.delete(settled);
    }
  }
}
