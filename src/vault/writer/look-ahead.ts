/** Asks disks for what they hold while the vault still gets ready for them. */
import { KluisError } from "#base/kluis-error.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";
import { collectDataWindows } from "#vault/writer/segment-plan.ts";

/** Disks of which those that are read whole tell their data windows; its end ends the asking. */
export class LookAhead implements AsyncDisposable {
  readonly disks: readonly DiskInput[];
  readonly #ended = new AbortController();
  readonly #asked: Promise<unknown>[] = [];

  constructor(disks: readonly DiskInput[], signal: AbortSignal | undefined) {
    const ended = this.#ended.signal;
    const either = signal === undefined ? ended : AbortSignal.any([signal, ended]);
    this.disks = disks.map((disk) => {
      if (disk.increment !== undefined) return disk;
      const dataWindows = collectDataWindows(disk.reader.extents(either));
      // Whoever waits for the windows is told of an error; there may be nobody any more.
      this.#asked.push(dataWindows.catch(() => undefined));
      return { ...disk, dataWindows };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new KluisError("Cancelled", "Cannot tell what the disk holds: nobody waits"));
    await Promise.all(this.#asked);
  }
}
