/** The vault's worker threads, seen from the main thread. */
import { Worker } from "node:worker_threads";

import { assert, present } from "#base/assert.ts";
import { fromSerializedError, KluisError } from "#base/kluis-error.ts";
import { Pool } from "#base/pool.ts";
import type { IndexPack } from "#formats/index-segment.ts";
import { sparePackBuffers } from "#vault/limits.ts";
import { packBufferBytes } from "#vault/pack/pack-builder.ts";
import type {
  OpenFrameTask,
  PageScan,
  ScanPagesTask,
  ScanWindowsTask,
  WindowScan,
  WorkerAnswer,
  WorkerStart,
  WorkerTask,
} from "#vault/workers/messages.ts";

/** A pack that a worker finished. Its bytes are lent until `release` is called. */
export interface FinishedPack {
  readonly bytes: Uint8Array;
  readonly table: IndexPack;
  release(): void;
}

/** A scanned segment, kept by its worker until {@link WorkerPool.store} is called with it. */
export interface ScannedSegment<Scan> {
  readonly scan: Scan;
  readonly worker: number;
}

type Answer<Kind extends WorkerAnswer["kind"]> = Extract<WorkerAnswer, { kind: Kind }>;
/** A task as a caller gives it: the pool numbers it. */
type Unnumbered<T> = T extends unknown ? Omit<T, "task"> : never;

interface Waiter {
  resolve(answer: WorkerAnswer): void;
  reject(error: unknown): void;
}

interface Thread {
  readonly worker: Worker;
  readonly waiters: Map<number, Waiter>;
  load: number;
}

/**
 * Gives tasks to the least loaded thread and hands finished packs to `onPack`.
 *
 * Threads start with the first task that finds all others busy, so a small backup starts one. When
 * a thread dies every task fails with Internal, also later ones.
 */
export class WorkerPool implements AsyncDisposable {
  readonly #start: WorkerStart;
  readonly #size: number;
  readonly #threads: Thread[] = [];
  readonly #packBuffers: Pool<ArrayBuffer>;
  readonly #onPack: (pack: FinishedPack) => void;
  #tasks = 0;
  #broken: KluisError | undefined;
  #closed = false;

  /** @param options.onPack Called once for each finished pack; must not throw. */
  constructor(options: {
    readonly start: WorkerStart;
    readonly size: number;
    readonly onPack: (pack: FinishedPack) => void;
  }) {
    this.#start = options.start;
    this.#size = options.size;
    this.#onPack = options.onPack;
    this.#packBuffers = new Pool({
      size: options.size + sparePackBuffers,
      make: () => new ArrayBuffer(packBufferBytes),
    });
  }

  /** Hashes whole windows; `buffer` is gone until {@link store}. */
  async scanWindows(
    task: Unnumbered<Omit<ScanWindowsTask, "kind">>,
  ): Promise<ScannedSegment<WindowScan>> {
    const worker = this.#leastLoaded();
    const answer = await this.#ask(worker, { kind: "scan-windows", ...task }, [task.buffer]);
    return { scan: answer as Answer<"windows-scanned">, worker };
  }

  /** Compares pages; `buffer` is gone until {@link store}. */
  async scanPages(
    task: Unnumbered<Omit<ScanPagesTask, "kind">>,
  ): Promise<ScannedSegment<PageScan>> {
    const worker = this.#leastLoaded();
    const answer = await this.#ask(worker, { kind: "scan-pages", ...task }, [task.buffer]);
    return { scan: answer as Answer<"pages-scanned">, worker };
  }

  /** Seals the wanted candidates of a scanned segment and returns its buffer and what they take. */
  async store(
    segment: ScannedSegment<WindowScan | PageScan>,
    wanted: Uint8Array,
  ): Promise<Answer<"stored">> {
    const task: WorkerTask = { kind: "store", task: segment.scan.task, wanted };
    const answer = await this.#send(segment.worker, task, []);
    return answer as Answer<"stored">;
  }

  /** Opens one frame and checks its blocks. */
  async openFrame(task: Unnumbered<Omit<OpenFrameTask, "kind">>): Promise<Answer<"frame-opened">> {
    const worker = this.#leastLoaded();
    const answer = await this.#ask(worker, { kind: "open-frame", ...task }, [task.buffer]);
    return answer as Answer<"frame-opened">;
  }

  /** Finishes every open pack; each was handed to `onPack` when this resolves. */
  async flush(): Promise<void> {
    await Promise.all(this.#threads.map((_, worker) => this.#ask(worker, { kind: "flush" }, [])));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  #leastLoaded(): number {
    let best = -1;
    for (const [at, thread] of this.#threads.entries()) {
      if (best < 0 || thread.load < present(this.#threads[best], "a thread").load) best = at;
    }
    const idle = best >= 0 && present(this.#threads[best], "a thread").load === 0;
    if (idle || this.#threads.length >= this.#size) return best;
    return this.#startThread();
  }

  #ask(
    worker: number,
    task: Unnumbered<Exclude<WorkerTask, { kind: "pack-buffer" }>>,
    transfer: readonly ArrayBuffer[],
  ): Promise<WorkerAnswer> {
    return this.#send(worker, { ...task, task: this.#tasks++ }, transfer);
  }

  #send(worker: number, task: WorkerTask, transfer: readonly ArrayBuffer[]): Promise<WorkerAnswer> {
    if (this.#broken !== undefined) return Promise.reject(this.#broken);
    assert(task.kind !== "pack-buffer", "a grant has no answer");
    const thread = present(this.#threads[worker], "a worker that was started");
    return new Promise((resolve, reject) => {
      thread.load++;
      thread.waiters.set(task.task, { resolve, reject });
      thread.worker.postMessage(task, transfer as ArrayBuffer[]);
    });
  }

  #startThread(): number {
    const extension = import.meta.url.slice(import.meta.url.lastIndexOf("."));
    const worker = new Worker(new URL(`./worker-entry${extension}`, import.meta.url), {
      workerData: this.#start,
    });
    const thread: Thread = { worker, waiters: new Map(), load: 0 };
    const at = this.#threads.push(thread) - 1;
    worker.on("message", (answer: WorkerAnswer) => this.#receive(thread, answer));
    worker.on("error", (error) => this.#break(error));
    worker.on("exit", () => this.#break(new Error("a worker thread ended")));
    this.#grantBuffer(thread);
    return at;
  }

  #receive(thread: Thread, answer: WorkerAnswer): void {
    if (answer.kind === "pack") {
      this.#grantBuffer(thread);
      this.#onPack({
        bytes: new Uint8Array(answer.buffer, 0, answer.lengthBytes),
        table: answer.table,
        release: () => this.#packBuffers.give(answer.buffer),
      });
      return;
    }
    const waiter = present(thread.waiters.get(answer.task), "an answer has a task");
    thread.waiters.delete(answer.task);
    thread.load--;
    if (answer.kind === "failed") waiter.reject(fromSerializedError(answer.error));
    else waiter.resolve(answer);
  }

  #grantBuffer(thread: Thread): void {
    void this.#packBuffers.take().then((buffer) => {
      if (!this.#closed) thread.worker.postMessage({ kind: "pack-buffer", buffer }, [buffer]);
    });
  }

  #break(cause: unknown): void {
    if (this.#closed || this.#broken !== undefined) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    this.#broken = new KluisError("Internal", `Cannot go on: a worker failed: ${reason}`, {
      cause,
    });
    for (const { waiters } of this.#threads) {
      for (const waiter of waiters.values()) waiter.reject(this.#broken);
      waiters.clear();
    }
  }
}
