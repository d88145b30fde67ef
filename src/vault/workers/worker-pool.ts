/** The vault's worker threads, seen from the main thread. */
import { getCompileCacheDir } from "node:module";
import { dirname } from "node:path";
import { Worker } from "node:worker_threads";

import { present } from "#base/assert.ts";
import { fromSerializedError, KluisError } from "#base/kluis-error.ts";
import { computeName } from "#vault/hashing.ts";
import type { PackToCheck } from "#vault/workers/check-pack.ts";
import type { FrameTicket } from "#vault/pack/pack-builder.ts";
import type { FramesToOpen, OpenedFrames } from "#vault/workers/open-frames.ts";
import type {
  PageScan,
  ScanPagesTask,
  ScanWindowsTask,
  WindowScan,
  WorkerAnswer,
  WorkerStart,
  WorkerTask,
} from "#vault/workers/messages.ts";

/** What is young in a thread dies at once; with more room for it a thread takes 6 MiB more. */
const youngMegabytesMax = 3;
/**
 * Tasks that a thread does while another one starts, which takes 0.1 s. Before each has so many no other
 * is started, and one that is starting gets its first when each has that many more.
 */
const tasksWhileStarting = 2;

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
  /** Tasks that it was given and has not answered. */
  load: number;
  /** Whether it is still to give its first answer. */
  isStarting: boolean;
}

/**
 * Gives tasks to the thread that is likely to end them first.
 *
 * Threads start with the first task that finds the others busy for a while, so a small backup starts
 * one, or are started ahead of it. When a thread dies every task fails with Internal, also later ones.
 */
export class WorkerPool implements AsyncDisposable {
  readonly #start: WorkerStart;
  readonly #size: number;
  readonly #threads: Thread[] = [];
  #tasks = 0;
  /** Why no task is done any more. */
  #ended: KluisError | undefined;

  /** @param options.size Threads at most, 1 or more. */
  constructor(options: { readonly start: WorkerStart; readonly size: number }) {
    this.#start = options.start;
    this.#size = options.size;
  }

  /** Whether no task is done any more: a thread died, or the pool was disposed. */
  get hasEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** Starts threads until there are `threads` of them, at most as many as the pool may have. */
  warmUp(threads: number): void {
    if (this.#ended !== undefined) return;
    while (this.#threads.length < Math.min(threads, this.#size)) this.#startThread();
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

  /** Seals the wanted candidates of a scanned segment; its buffer comes back with them. */
  async store(
    segment: ScannedSegment<WindowScan | PageScan>,
    wanted: Uint8Array,
    ticket: FrameTicket,
  ): Promise<Answer<"stored">> {
    const { epoch, salt, firstFrame } = ticket;
    const { task } = segment.scan;
    const message: WorkerTask = {
      kind: "store",
      task,
      wanted,
      ticket: { epoch, salt, firstFrame },
    };
    return (await this.#send(segment.worker, message, [])) as Answer<"stored">;
  }

  /** Gives back the buffer of a scanned segment of which nothing is wanted. */
  async release(segment: ScannedSegment<WindowScan | PageScan>): Promise<ArrayBuffer> {
    const message: WorkerTask = { kind: "release", task: segment.scan.task };
    return ((await this.#send(segment.worker, message, [])) as Answer<"stored">).buffer;
  }

  /** Opens frames and checks their blocks; their buffer is taken over. */
  async openFrames(frames: FramesToOpen): Promise<OpenedFrames> {
    const task = { kind: "open-frames", ...frames } as const;
    const answer = await this.#ask(this.#leastLoaded(), task, [frames.buffer]);
    return answer as Answer<"frames-opened">;
  }

  /** Whether a whole pack is as it was written; its buffer is taken over. */
  async isPackSound(pack: PackToCheck): Promise<boolean> {
    const task = { kind: "check-pack", ...pack } as const;
    const answer = await this.#ask(this.#leastLoaded(), task, [pack.buffer]);
    return (answer as Answer<"pack-checked">).isSound;
  }

  /**
   * The name of a finished object of `bytes`. For what lies in shared memory a thread computes it,
   * which is lent the bytes until then: hashing a pack takes as long as sealing a segment.
   */
  async nameOf(bytes: Uint8Array): Promise<Uint8Array> {
    if (!(bytes.buffer instanceof SharedArrayBuffer)) return computeName(bytes);
    const answer = await this.#ask(this.#leastLoaded(), { kind: "name", bytes }, []);
    return (answer as Answer<"named">).name;
  }

  /** Ends the threads; tasks that are under way fail with Cancelled. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end(new KluisError("Cancelled", "Cannot go on: the work was ended"));
  }

  #leastLoaded(): number {
    if (this.#ended !== undefined) throw this.#ended;
    const [first, ...others] = this.#threads.keys();
    if (first === undefined) return this.#startThread();
    const best = others.reduce((a, b) => (this.#waitOf(b) < this.#waitOf(a) ? b : a), first);
    const isBusy = present(this.#threads[best], "a thread").load >= tasksWhileStarting;
    if (isBusy && this.#threads.length < this.#size) this.#startThread();
    return best;
  }

  /** How long a thread needs until it comes to a new task, in tasks. */
  #waitOf(at: number): number {
    const { load, isStarting } = present(this.#threads[at], "a thread");
    return isStarting ? load + tasksWhileStarting : load;
  }

  #ask(
    worker: number,
    task: Unnumbered<WorkerTask>,
    transfer: readonly ArrayBuffer[],
  ): Promise<WorkerAnswer> {
    return this.#send(worker, { ...task, task: this.#tasks++ }, transfer);
  }

  #send(worker: number, task: WorkerTask, transfer: readonly ArrayBuffer[]): Promise<WorkerAnswer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
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
      env: workerEnvironment(),
      resourceLimits: { maxYoungGenerationSizeMb: youngMegabytesMax },
    });
    const thread: Thread = { worker, waiters: new Map(), load: 0, isStarting: true };
    const at = this.#threads.push(thread) - 1;
    worker.on("message", (answer: WorkerAnswer) => this.#receive(thread, answer));
    worker.on("error", (error) => this.#break(error));
    worker.on("messageerror", (error) => this.#break(error));
    worker.on("exit", () => this.#break(new Error("a worker thread ended")));
    return at;
  }

  #receive(thread: Thread, answer: WorkerAnswer): void {
    if (this.#ended !== undefined) return;
    const waiter = present(thread.waiters.get(answer.task), "an answer has a task");
    thread.waiters.delete(answer.task);
    thread.load--;
    thread.isStarting = false;
    if (answer.kind === "failed") waiter.reject(fromSerializedError(answer.error));
    else waiter.resolve(answer);
  }

  #break(cause: unknown): void {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `Cannot go on: a worker thread failed: ${reason}`;
    void this.#end(new KluisError("Internal", message, { cause }));
  }

  /** Whoever waits is told when no thread runs any more: none writes into memory that was lent to it. */
  async #end(error: KluisError): Promise<void> {
    this.#ended ??= error;
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
    for (const { waiters } of this.#threads) {
      for (const waiter of waiters.values()) waiter.reject(this.#ended);
      waiters.clear();
    }
  }
}

/** Threads see nothing of the environment but where compiled code is kept, which halves their start. */
function workerEnvironment(): Record<string, string> {
  const directory = getCompileCacheDir();
  return directory === undefined ? {} : { NODE_COMPILE_CACHE: dirname(directory) };
}
