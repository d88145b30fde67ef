/**
 * A client of the guest agent (qemu-ga): one command at a time, one owner of the socket.
 *
 * The agent answers in order and without ids. After an answer that did not come in time the next
 * command first asks guest-sync-delimited, and throws away everything up to that answer.
 */
import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import {
  AGENT_DELIMITER,
  encodeQmpCommand,
  parseQmpMessage,
  type JsonObject,
  type QmpLine,
  type QmpMessage,
} from "#formats/qmp-wire.ts";
import { withDeadline, type Patience } from "./deadline.ts";
import { openAgentChannel, type AgentChannel } from "./agent-channel.ts";

/** How long an agent may take to answer the first sync unless the caller says otherwise. */
export const AGENT_SYNC_TIMEOUT_MS = 5_000;
/** How long a command may take unless the caller says otherwise. */
export const AGENT_COMMAND_TIMEOUT_MS = 10_000;

/** An agent that starts meanwhile never sees the first question: it is asked again so often. */
const SYNC_REPEAT_MS = 500;

/** How long a call may take. */
export interface AgentOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** How a session is opened. */
export interface AgentOpenOptions extends AgentOptions {
  readonly clock?: Clock;
}

interface Waiting {
  readonly resolve: (message: QmpMessage) => void;
  readonly reject: (error: Error) => void;
}

/** See above. */
export class GuestAgent implements AsyncDisposable {
  readonly clock: Clock;
  readonly #turn = new Semaphore(1);
  #socket: AgentChannel | undefined;
  #isInSync = false;
  #lastSyncId: number;
  #leftoverThawed: number | undefined;
  #leftoverReason: string | undefined;
  #synced: PromiseWithResolvers<void> | undefined;
  #waiting: Waiting | undefined;
  #failure: KluisError | undefined;
  /** Why the last question had no answer, in the words of who owns the channel. */
  #complaint: string | undefined;

  private constructor(clock: Clock) {
    this.clock = clock;
    // Another session's late answers carry other numbers.
    this.#lastSyncId = Math.trunc(clock.nowMs() % 1_000_000_000);
  }

  /**
   * Takes the agent's socket: sync, status, and thaw where a round that died left the guest frozen. The
   * sync may take `timeoutMs`, and so may that thaw, at least as long as any command.
   *
   * Errors: AgentUnavailable (backoff) where nobody answers in time or another session is open.
   */
  static async open(path: string, options: AgentOpenOptions = {}): Promise<GuestAgent> {
    const clock = options.clock ?? systemClock;
    const agent = new GuestAgent(clock);
    const timeoutMs = options.timeoutMs ?? AGENT_SYNC_TIMEOUT_MS;
    const { signal } = options;
    try {
      agent.#socket = await agent.#connect(path, { timeoutMs, clock, signal });
      await agent.#sync({ timeoutMs, clock, signal });
      await agent.#clearLeftover(Math.max(timeoutMs, AGENT_COMMAND_TIMEOUT_MS), signal);
      return agent;
    } catch (error) {
      agent.#socket?.destroy();
      throw error;
    }
  }

  /** How many file systems the thaw at the start of this session thawed; `undefined` where none was needed. */
  get leftoverThawed(): number | undefined {
    return this.#leftoverThawed;
  }

  /** How that thaw failed, although the guest goes on: VSS had given up to hold writes. */
  get leftoverReason(): string | undefined {
    return this.#leftoverReason;
  }

  /**
   * Runs a command and returns its value. Errors: AgentFailed (backoff) with the agent's words
   * where it refused; AgentUnavailable (backoff) where it did not answer: then the command may
   * still happen.
   */
  async execute(command: string, args?: JsonObject, options: AgentOptions = {}): Promise<unknown> {
    await this.#turn.acquire(options.signal);
    try {
      return await this.#executeInTurn(command, args, options);
    } finally {
      this.#turn.release();
    }
  }

  /**
   * Sends a command and does not wait, even behind a command that is not answered. Its answer is
   * thrown away by the sync before the next command.
   */
  post(command: string): void {
    this.#isInSync = false;
    this.#socket?.write(encodeQmpCommand({ execute: command }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#socket?.end();
    this.#socket?.destroy();
    return Promise.resolve();
  }

  async #connect(path: string, patience: Patience): Promise<AgentChannel> {
    try {
      return await openAgentChannel(
        path,
        {
          onLine: (line) => {
            this.#take(line);
          },
          onEnd: (error) => {
            this.#end(error);
          },
          onUnanswered: (reason) => {
            this.#complaint = reason;
            this.#waiting?.reject(unavailable(reason));
          },
        },
        patience,
      );
    } catch (error) {
      patience.signal?.throwIfAborted();
      throw unavailable(`its channel does not open: ${(error as Error).message}`, error);
    }
  }

  async #executeInTurn(
    command: string,
    args: JsonObject | undefined,
    options: AgentOptions,
  ): Promise<unknown> {
    const { clock } = this;
    const { signal } = options;
    const timeoutMs = options.timeoutMs ?? AGENT_COMMAND_TIMEOUT_MS;
    const deadlineMs = clock.monotonicMs() + timeoutMs;
    if (!this.#isInSync) await this.#sync({ timeoutMs, clock, signal });
    this.#assertOpen();
    const { promise, resolve, reject } = Promise.withResolvers<QmpMessage>();
    this.#waiting = { resolve, reject };
    const message = { execute: command, ...(args === undefined ? {} : { arguments: args }) };
    this.#isInSync = false;
    this.#socket?.write(encodeQmpCommand(message));
    const leftMs = Math.max(0, deadlineMs - clock.monotonicMs());
    try {
      const answer = await withDeadline(promise, { timeoutMs: leftMs, clock, signal }, () =>
        unavailable(`it did not answer "${command}" within ${String(Math.round(timeoutMs))} ms`),
      );
      this.#isInSync = true;
      if (answer.kind === "return") return answer.value;
      throw refused(command, answer);
    } finally {
      this.#waiting = undefined;
    }
  }

  /**
   * Throws away all that was under way: resolves once the agent answers the number asked last. Each
   * question is answered once, after the complaint about its delimiter, so nothing follows then.
   */
  async #sync(patience: Patience): Promise<void> {
    this.#assertOpen();
    const synced = Promise.withResolvers<void>();
    synced.promise.catch(() => undefined);
    this.#synced = synced;
    const deadlineMs = patience.clock.monotonicMs() + patience.timeoutMs;
    const late = new Error("no answer yet");
    this.#complaint = undefined;
    try {
      for (;;) {
        this.#askSync();
        const leftMs = deadlineMs - patience.clock.monotonicMs();
        const timeoutMs = Math.max(0, Math.min(leftMs, SYNC_REPEAT_MS));
        try {
          await withDeadline(synced.promise, { ...patience, timeoutMs }, () => late);
          this.#isInSync = true;
          return;
        } catch (error) {
          if (error !== late) throw error;
          if (leftMs <= SYNC_REPEAT_MS) throw this.#silent(patience.timeoutMs);
        }
      }
    } finally {
      this.#synced = undefined;
    }
  }

  #silent(timeoutMs: number): KluisError {
    const why = this.#complaint === undefined ? "" : `: ${this.#complaint}`;
    return unavailable(`it did not answer within ${String(timeoutMs)} ms${why}`);
  }

  #askSync(): void {
    this.#lastSyncId += 1;
    const command = { execute: "guest-sync-delimited", arguments: { id: this.#lastSyncId } };
    this.#socket?.write(Uint8Array.of(AGENT_DELIMITER, ...encodeQmpCommand(command)));
  }

  async #clearLeftover(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    if (!(await this.#isFrozen(signal))) return;
    try {
      const count = await this.execute("guest-fsfreeze-thaw", undefined, { timeoutMs, signal });
      this.#leftoverThawed = Number(count);
    } catch (error) {
      if (!isKluisError(error, "AgentFailed") || (await this.#isFrozen(signal))) throw error;
      this.#leftoverThawed = 0;
      this.#leftoverReason = error.message;
    }
  }

  async #isFrozen(signal: AbortSignal | undefined): Promise<boolean> {
    try {
      return (await this.execute("guest-fsfreeze-status", undefined, { signal })) !== "thawed";
    } catch (error) {
      // An agent that cannot freeze is not frozen.
      if (isKluisError(error, "AgentFailed")) return false;
      throw error;
    }
  }

  #take(line: QmpLine): void {
    let message: QmpMessage;
    try {
      message = parseQmpMessage(line.text);
    } catch (error) {
      this.#socket?.destroy();
      this.#end(error as Error);
      return;
    }
    if (line.isDelimited) {
      if (message.kind === "return" && message.value === this.#lastSyncId) this.#synced?.resolve();
      return;
    }
    // Before the answer to a sync everything is late.
    if (this.#synced === undefined) this.#waiting?.resolve(message);
  }

  #assertOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #end(error: Error | undefined): void {
    if (this.#failure !== undefined) return;
    this.#failure = unavailable(error?.message ?? "its channel was closed", error);
    this.#synced?.reject(this.#failure);
    this.#waiting?.reject(this.#failure);
  }
}

function unavailable(reason: string, cause?: unknown): KluisError {
  return new KluisError("AgentUnavailable", `Cannot talk to the guest agent: ${reason}`, { cause });
}

function refused(command: string, answer: QmpMessage): KluisError {
  const reason = answer.kind === "error" ? answer.description : "its answer has no known form";
  return new KluisError("AgentFailed", `Cannot run "${command}" in the guest: ${reason}`, {
    details: { command },
  });
}
