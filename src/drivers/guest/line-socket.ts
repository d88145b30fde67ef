/** A connected Unix socket that speaks lines; internal to this folder. */
import { connect, type Socket } from "node:net";

import { QmpLines, type QmpLine } from "#formats/qmp-wire.ts";
import type { Patience } from "./deadline.ts";

/** Most bytes that wait to be sent; more means that the peer has stopped reading. */
export const LINE_SOCKET_UNSENT_BYTES_MAX = 1024 * 1024;

/** How often a socket that is not there yet is tried again. */
const CONNECT_POLL_MS = 20;

/** What happens on the socket; each is called outside of any call into it. */
export interface LineSocketEvents {
  readonly onLine: (line: QmpLine) => void;
  /** Once, when no more lines will come. */
  readonly onEnd: (error: Error | undefined) => void;
}

/** See above. */
export class LineSocket {
  readonly #socket: Socket;
  readonly #events: LineSocketEvents;
  readonly #lines = new QmpLines();
  #isEnded = false;
  #error: Error | undefined;

  private constructor(socket: Socket, events: LineSocketEvents) {
    this.#socket = socket;
    this.#events = events;
    socket.on("data", (chunk: Buffer) => {
      this.#take(chunk);
    });
    socket.on("error", (error) => {
      this.#error ??= error;
    });
    socket.on("end", () => {
      socket.destroy();
    });
    socket.on("close", () => {
      this.#end();
    });
  }

  /** Connects at once, or not at all: rejects with the system's error. */
  static async connect(path: string, events: LineSocketEvents): Promise<LineSocket> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve();
      });
    });
    return new LineSocket(socket, events);
  }

  /** Wraps a socket that somebody else connected to us. */
  static accept(socket: Socket, events: LineSocketEvents): LineSocket {
    return new LineSocket(socket, events);
  }

  /** Sends bytes; false, and the socket ends, where the peer has stopped reading. */
  write(bytes: Uint8Array): boolean {
    if (this.#socket.destroyed) return false;
    if (this.#socket.writableLength > LINE_SOCKET_UNSENT_BYTES_MAX) {
      this.#error ??= new Error("it does not read what it is sent");
      this.#socket.destroy();
      return false;
    }
    this.#socket.write(bytes);
    return true;
  }

  /** Closes the socket; what was written before is still sent. */
  end(): void {
    this.#socket.end();
  }

  /** Closes the socket at once. */
  destroy(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    let lines: readonly QmpLine[];
    try {
      lines = this.#lines.add(chunk);
    } catch (error) {
      this.#error ??= error as Error;
      this.#socket.destroy();
      return;
    }
    for (const line of lines) this.#events.onLine(line);
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#events.onEnd(this.#error);
  }
}

/** Connects as soon as somebody listens, for at most `timeoutMs`; rejects with the system's error. */
export async function connectWhenThere(
  path: string,
  events: LineSocketEvents,
  patience: Patience,
): Promise<LineSocket> {
  const { clock, signal } = patience;
  const deadlineMs = clock.monotonicMs() + patience.timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await LineSocket.connect(path, events);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const mayCome = code === "ENOENT" || code === "ECONNREFUSED" || code === "EAGAIN";
      if (!mayCome || clock.monotonicMs() >= deadlineMs) throw error;
    }
    await clock.sleep(CONNECT_POLL_MS, signal);
  }
}
