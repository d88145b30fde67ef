/**
 * A client of QEMU's monitor: commands with ids, events, one session. It never reconnects by
 * itself: a new session means that commands of the old one may or may not have happened, and only
 * the caller knows what to ask then.
 */
import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import {
  encodeQmpCommand,
  isObject,
  parseQmpMessage,
  type JsonObject,
  type QmpMessage,
} from "#formats/qmp-wire.ts";
import { withDeadline, type Patience } from "#drivers/guest/deadline.ts";
import { connectWhenThere, type LineSocket } from "#drivers/guest/line-socket.ts";

/** Commands that wait for their answer; we send one after the other, so this is never near. */
export const QMP_COMMANDS_MAX = 64;
/** Events that a watch holds until they are taken. */
export const QMP_EVENTS_MAX = 1024;
/** How long a session may take to begin: QEMU serves one at a time. */
export const QMP_OPEN_TIMEOUT_MS = 10_000;
/** How long a command may take unless the caller says otherwise. */
export const QMP_COMMAND_TIMEOUT_MS = 30_000;

/** An event of the machine. */
export interface QmpEvent {
  readonly name: string;
  readonly data: JsonObject;
}

/** How long a command may take. */
export interface QmpOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** How a session is opened. */
export interface QmpOpenOptions extends QmpOptions {
  readonly clock?: Clock;
}

/** One action of a transaction. */
export interface QmpAction {
  readonly type: string;
  readonly data: JsonObject;
}

interface Waiting {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Events from the moment it was opened, in order; the oldest are dropped past {@link QMP_EVENTS_MAX}. */
export class EventWatch implements Disposable {
  readonly #events: QmpEvent[] = [];
  readonly #client: QmpClient;
  readonly #forget: () => void;
  #wake: (() => void) | undefined;

  constructor(client: QmpClient, forget: () => void) {
    this.#client = client;
    this.#forget = forget;
  }

  /** Only for the client. */
  add(event: QmpEvent): void {
    if (this.#events.length >= QMP_EVENTS_MAX) this.#events.shift();
    this.#events.push(event);
    this.wake();
  }

  /** Only for the client: the session has ended. */
  wake(): void {
    this.#wake?.();
  }

  /** The next event; `undefined` after `timeoutMs`. Errors: QmpFailed where the session has ended. */
  async next(timeoutMs: number, signal?: AbortSignal): Promise<QmpEvent | undefined> {
    const first = this.#events.shift();
    if (first !== undefined) return first;
    this.#client.assertOpen();
    const woken = new Promise<void>((resolve) => (this.#wake = resolve));
    const timeout = new Error("no event in time");
    try {
      await withDeadline(woken, { timeoutMs, clock: this.#client.clock, signal }, () => timeout);
    } catch (error) {
      if (error === timeout) return undefined;
      throw error;
    } finally {
      this.#wake = undefined;
    }
    const event = this.#events.shift();
    if (event === undefined) this.#client.assertOpen();
    return event;
  }

  [Symbol.dispose](): void {
    this.#forget();
  }
}

/** See above. Calls may overlap. */
export class QmpClient implements AsyncDisposable {
  readonly clock: Clock;
  #socket: LineSocket | undefined;
  readonly #waiting = new Map<string, Waiting>();
  readonly #watches = new Set<EventWatch>();
  #lastId = 0;
  #failure: KluisError | undefined;
  #version: string | undefined;
  readonly #greeted = Promise.withResolvers<void>();

  private constructor(clock: Clock) {
    this.clock = clock;
    this.#greeted.promise.catch(() => undefined);
  }

  /**
   * Begins a session on QEMU's socket and leaves negotiation mode. Waits while another session is
   * open. Errors: QmpFailed (backoff).
   */
  static async open(path: string, options: QmpOpenOptions = {}): Promise<QmpClient> {
    const clock = options.clock ?? systemClock;
    const client = new QmpClient(clock);
    const patience: Patience = {
      timeoutMs: options.timeoutMs ?? QMP_OPEN_TIMEOUT_MS,
      clock,
      signal: options.signal,
    };
    try {
      client.#socket = await client.#connect(path, patience);
      await withDeadline(client.#greeted.promise, patience, () =>
        failed("open a session with QEMU", "it does not answer, or another session is open"),
      );
      await client.execute("qmp_capabilities", undefined, options);
      return client;
    } catch (error) {
      client.#socket?.destroy();
      throw error;
    }
  }

  async #connect(path: string, patience: Patience): Promise<LineSocket> {
    try {
      return await connectWhenThere(
        path,
        {
          onLine: (line) => {
            this.#take(line.text);
          },
          onEnd: (error) => {
            this.#end(error);
          },
        },
        patience,
      );
    } catch (error) {
      patience.signal?.throwIfAborted();
      throw failed("open a session with QEMU", (error as Error).message, error);
    }
  }

  /** QEMU's version, for example `7.2.22`. */
  get version(): string {
    return this.#version ?? "";
  }

  /** Throws QmpFailed where the session has ended. */
  assertOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * Runs a command and returns its value. Where the answer does not come in time or the signal
   * aborts, the command may still happen; a late answer is dropped.
   *
   * Errors: QmpFailed (backoff) with `details.class` where QEMU refused; without where it did not answer.
   */
  async execute(command: string, args?: JsonObject, options: QmpOptions = {}): Promise<unknown> {
    this.assertOpen();
    options.signal?.throwIfAborted();
    if (this.#waiting.size >= QMP_COMMANDS_MAX) {
      throw failed(`run "${command}"`, "too many commands wait for QEMU");
    }
    const id = `kluis-${String((this.#lastId += 1))}`;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.set(id, { command, resolve, reject });
    const message = { execute: command, ...(args === undefined ? {} : { arguments: args }), id };
    this.#socket?.write(encodeQmpCommand(message));
    const timeoutMs = options.timeoutMs ?? QMP_COMMAND_TIMEOUT_MS;
    try {
      return await withDeadline(
        promise,
        { timeoutMs, clock: this.clock, signal: options.signal },
        () => failed(`run "${command}"`, `QEMU did not answer within ${String(timeoutMs)} ms`),
      );
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** All actions at one instant, or none. Errors: QmpFailed, see {@link execute}. */
  async transaction(actions: readonly QmpAction[], options?: QmpOptions): Promise<void> {
    await this.execute("transaction", { actions }, options);
  }

  /** Events from now on; the caller disposes it. */
  watchEvents(): EventWatch {
    const watch: EventWatch = new EventWatch(this, () => this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#socket?.destroy();
    return Promise.resolve();
  }

  #take(line: string): void {
    let message: QmpMessage;
    try {
      message = parseQmpMessage(line);
    } catch (error) {
      this.#socket?.destroy();
      this.#end(error as Error);
      return;
    }
    switch (message.kind) {
      case "greeting":
        this.#version = message.version;
        this.#greeted.resolve();
        break;
      case "event":
        for (const watch of this.#watches) watch.add({ name: message.name, data: message.data });
        break;
      case "return":
        this.#answer(message.id)?.resolve(message.value);
        break;
      case "error": {
        const waiting = this.#answer(message.id);
        waiting?.reject(refused(waiting.command, message));
        break;
      }
    }
  }

  #answer(id: string | undefined): Waiting | undefined {
    // An answer to nobody is late: its caller has given up.
    return id === undefined ? undefined : this.#waiting.get(id);
  }

  #end(error: Error | undefined): void {
    if (this.#failure !== undefined) return;
    this.#failure = failed("talk to QEMU", error?.message ?? "it has ended the session", error);
    this.#greeted.reject(this.#failure);
    for (const waiting of this.#waiting.values()) {
      waiting.reject(failed(`run "${waiting.command}"`, this.#failure.message, error));
    }
    this.#waiting.clear();
    for (const watch of this.#watches) watch.wake();
  }
}

/** Whether QEMU answered the command with a refusal, so that it is sure not to have happened. */
export function isQmpRefusal(error: unknown): error is KluisError {
  return error instanceof KluisError && error.code === "QmpFailed" && "class" in error.details;
}

/** Reads a list of objects out of an answer. Errors: QmpFailed. */
export function toObjects(value: unknown, what: string): readonly JsonObject[] {
  if (!Array.isArray(value) || !value.every(isObject)) {
    throw failed(`read ${what}`, "the answer has another form than known");
  }
  return value;
}

function refused(
  command: string,
  error: { readonly class: string; readonly description: string },
): KluisError {
  return new KluisError("QmpFailed", `Cannot run "${command}" in QEMU: ${error.description}`, {
    details: { command, class: error.class },
  });
}

function failed(what: string, reason: string, cause?: unknown): KluisError {
  return new KluisError("QmpFailed", `Cannot ${what}: ${reason}`, { cause });
}
