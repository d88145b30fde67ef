/** A stream socket that reads into one buffer of its own, which is never handed on. */
import { connect, type Socket } from "node:net";

import type { Clock } from "#base/clock.ts";
import { nbdUnavailable } from "./errors.ts";
import { NBD_RECEIVE_BUFFER_BYTES } from "./limits.ts";
import type { NbdAddress } from "./nbd-address.ts";

/** What happens on a socket. Replaced as a whole when the handshake is over. */
export interface NbdSocketEvents {
  /** `bytes` are valid only during the call. False pauses reading until {@link NbdSocket.resume}. */
  readonly onBytes: (bytes: Uint8Array) => boolean;
  /** Once, when no more bytes will come. */
  readonly onEnd: (error: Error | undefined) => void;
}

/** A connected socket. */
export class NbdSocket {
  readonly #socket: Socket;
  #events: NbdSocketEvents | undefined;
  #ended = false;
  #error: Error | undefined;

  private constructor(address: NbdAddress) {
    const buffer = Buffer.alloc(NBD_RECEIVE_BUFFER_BYTES);
    const onread = {
      buffer,
      callback: (bytesRead: number) =>
        this.#events?.onBytes(buffer.subarray(0, bytesRead)) ?? false,
    };
    this.#socket =
      address.transport === "unix"
        ? connect({ path: address.socketPath, onread })
        : connect({ host: address.host, port: address.port, noDelay: true, onread });
    this.#socket.on("error", (error) => {
      this.#error = error;
    });
    // A server that hangs up is done: nothing of ours is worth sending then.
    this.#socket.on("end", () => {
      this.#end();
    });
    this.#socket.on("close", () => {
      this.#end();
    });
  }

  /** Connects. NbdUnavailable (backoff) where nobody listens; the signal's reason when aborted. */
  static async connect(address: NbdAddress, signal: AbortSignal): Promise<NbdSocket> {
    signal.throwIfAborted();
    const socket = new NbdSocket(address);
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        socket.destroy();
        reject(signal.reason as Error);
      };
      signal.addEventListener("abort", onAbort, { once: true });
      socket.#events = {
        onBytes: () => false,
        onEnd: (error) => {
          signal.removeEventListener("abort", onAbort);
          reject(nbdUnavailable(address, error?.message ?? "it hung up", error));
        },
      };
      socket.#socket.once("connect", () => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      });
    });
    return socket;
  }

  /** Routes what happens from now on; an end that was already is told at once. */
  listen(events: NbdSocketEvents): void {
    this.#events = events;
    if (this.#ended) events.onEnd(this.#error);
  }

  /** Sends `parts` in order, none of which may change before the server has answered. */
  write(parts: readonly Uint8Array[]): void {
    if (this.#socket.destroyed) return;
    this.#socket.cork();
    for (const part of parts) this.#socket.write(part);
    this.#socket.uncork();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Closes our side and resolves when the server has closed its own, or after `waitMs`. */
  async close(waitMs: number, clock: Clock): Promise<void> {
    const patience = new AbortController();
    const closed = new Promise<void>((resolve) => {
      if (this.#socket.closed) resolve();
      else this.#socket.once("close", () => resolve());
    });
    this.#socket.end();
    const cut = clock.sleep(waitMs, patience.signal).then(
      () => {
        this.destroy();
      },
      // Closed in time.
      () => undefined,
    );
    await closed;
    patience.abort();
    await cut;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#events?.onEnd(this.#error);
  }
}
