/**
 * A strict client of the two line protocols of a lab machine, QMP and the guest agent: one request
 * at a time, events skipped. It is the lab's own, so that a test of the product's clients has a
 * witness that shares no code with them.
 */
import { connect, type Socket } from "node:net";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Longest line kept; a guest-exec result of 1 MiB in base64 fits. */
const lineLimitBytes = 4 * 1024 * 1024;
const requestTimeoutMs = 120_000;
const connectPollMs = 10;
const syncRepeatMs = 1000;
const firstSyncId = 1;
const lastSyncId = 2;
/** Sent before guest-sync-delimited and by the agent before its answer. */
const delimiter = 0xff;

type JsonObject = Readonly<Record<string, unknown>>;

interface PendingLine {
  readonly resolve: (line: string) => void;
  readonly reject: (error: Error) => void;
}

/** An open connection to a socket that speaks JSON lines. Not for concurrent requests. */
export class JsonChannel implements Disposable {
  readonly #socket: Socket;
  readonly #lines: string[] = [];
  #rest: Buffer = Buffer.alloc(0);
  #waiting: PendingLine | undefined;
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#take(chunk);
    });
    socket.on("error", (error) => {
      this.#fail(error);
    });
    socket.on("close", () => {
      this.#fail(new KluisError("QmpFailed", "Cannot talk to the lab VM: its socket was closed"));
    });
  }

  /** Connects to QEMU's monitor and enters command mode. Errors: QmpFailed. */
  static async openQmp(path: string, signal?: AbortSignal): Promise<JsonChannel> {
    const channel = new JsonChannel(await connectWhenReady(path, signal));
    await channel.#nextLine();
    await channel.request("qmp_capabilities");
    return channel;
  }

  /**
   * Connects to the guest agent and asks until it answers; `signal` ends the wait. The question is
   * repeated because an agent that starts meanwhile never sees the first one.
   */
  static async openAgent(path: string, signal: AbortSignal): Promise<JsonChannel> {
    const channel = new JsonChannel(await connectWhenReady(path, signal));
    const ask = (id: number): void => {
      channel.#socket.write(Buffer.from([delimiter]));
      channel.#send("guest-sync-delimited", { id });
    };
    const repeat = setInterval(() => {
      ask(firstSyncId);
    }, syncRepeatMs);
    const giveUp = (): void => {
      channel.#fail(signal.reason as Error);
    };
    signal.addEventListener("abort", giveUp);
    try {
      ask(firstSyncId);
      await channel.#skipTo(firstSyncId);
      clearInterval(repeat);
      // The agent answers in order: behind this answer nothing of the repeated questions is left.
      ask(lastSyncId);
      await channel.#skipTo(lastSyncId);
      return channel;
    } catch (error) {
      channel[Symbol.dispose]();
      throw error;
    } finally {
      signal.removeEventListener("abort", giveUp);
      clearInterval(repeat);
    }
  }

  /** Sends a command and returns its `return` value. Errors: QmpFailed with the peer's words. */
  async request(command: string, args?: JsonObject): Promise<unknown> {
    this.#send(command, args);
    for (;;) {
      const answer = JSON.parse(await this.#nextLine()) as JsonObject;
      if ("return" in answer) return answer["return"];
      if ("error" in answer) {
        const { desc } = answer["error"] as { readonly desc: string };
        throw new KluisError("QmpFailed", `Cannot run "${command}" in the lab VM: ${desc}`);
      }
    }
  }

  /** Sends a command that has no answer, as guest-shutdown. */
  post(command: string, args?: JsonObject): void {
    this.#send(command, args);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  async #skipTo(syncId: number): Promise<void> {
    for (;;) {
      const answer = JSON.parse(await this.#nextLine()) as JsonObject;
      if (answer["return"] === syncId) return;
    }
  }

  #send(command: string, args?: JsonObject): void {
    const request = args === undefined ? {} : { arguments: args };
    this.#socket.write(`${JSON.stringify({ execute: command, ...request })}\n`);
  }

  #take(chunk: Buffer): void {
    let bytes = Buffer.concat([this.#rest, chunk]);
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
      const start = bytes.subarray(0, end).lastIndexOf(delimiter) + 1;
      this.#lines.push(bytes.toString("utf8", start, end));
      bytes = bytes.subarray(end + 1);
    }
    this.#rest = bytes;
    if (bytes.byteLength > lineLimitBytes) {
      this.#fail(new KluisError("QmpFailed", "Cannot talk to the lab VM: its answer is too long"));
      this.#socket.destroy();
    }
    this.#deliver();
  }

  #deliver(): void {
    const line = this.#lines[0];
    if (this.#waiting === undefined || line === undefined) return;
    const { resolve } = this.#waiting;
    this.#waiting = undefined;
    this.#lines.shift();
    resolve(line);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
    this.#waiting = undefined;
  }

  #nextLine(): Promise<string> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#fail(new KluisError("QmpFailed", "Cannot talk to the lab VM: it does not answer"));
      }, requestTimeoutMs);
      const settle = (): void => {
        clearTimeout(timer);
      };
      this.#waiting = {
        resolve: (line) => {
          settle();
          resolve(line);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      if (this.#failure !== undefined && this.#lines.length === 0) this.#fail(this.#failure);
      else this.#deliver();
    });
  }
}

/** Connects once the socket is there: QEMU makes it while it starts. */
async function connectWhenReady(path: string, signal?: AbortSignal): Promise<Socket> {
  const deadlineMs = systemClock.monotonicMs() + requestTimeoutMs;
  for (;;) {
    try {
      return await connectOnce(path);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const isStarting = code === "ENOENT" || code === "ECONNREFUSED";
      if (!isStarting || systemClock.monotonicMs() > deadlineMs) throw error;
    }
    await systemClock.sleep(connectPollMs, signal);
  }
}

function connectOnce(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}
