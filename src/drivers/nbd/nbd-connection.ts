/** One connection to an NBD export: handshake, requests in flight, timeouts, and its end. */
import { assert } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import {
  encodeNbdRequest,
  nbdCommand,
  nbdErrno,
  nbdProtocolError,
  NBD_REQUEST_BYTES,
} from "#formats/nbd-wire.ts";
import { nbdUnavailable } from "./errors.ts";
import type { Flight } from "./flight.ts";
import { NBD_DISCONNECT_WAIT_MS, NBD_HANDSHAKE_BUFFER_BYTES, NBD_IN_FLIGHT_MAX } from "./limits.ts";
import type { NbdAddress } from "./nbd-address.ts";
import { NbdSocket } from "./nbd-socket.ts";
import type { HandshakeChannel, NbdExport } from "./negotiation.ts";
import { ReplyReader } from "./reply-reader.ts";

/** Time limits of a connection. */
export interface NbdTimeouts {
  readonly connectTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly clock: Clock;
}

/** Told once, when a connection is of no use any more, with the flights that got no answer. */
export type OnLost = (error: Error, unanswered: readonly Flight[]) => void;

/**
 * Connects and runs `handshake` within the time allowed.
 *
 * Errors: NbdUnavailable (backoff), NbdProtocol (never), what `handshake` throws, and the signal's
 * reason. On every error the socket is closed.
 */
export async function withHandshake<T>(
  address: NbdAddress,
  options: NbdTimeouts & { readonly signal?: AbortSignal | undefined },
  handshake: (channel: OpenChannel) => Promise<T>,
): Promise<T> {
  const { clock, connectTimeoutMs, signal } = options;
  const limit = new AbortController();
  const onAbort = (): void => {
    limit.abort(signal?.reason);
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted === true) onAbort();
  const over = new AbortController();
  const timer = clock.sleep(connectTimeoutMs, over.signal).then(
    () => {
      limit.abort(nbdUnavailable(address, `no answer within ${String(connectTimeoutMs)} ms`));
    },
    // The handshake ended in time.
    () => undefined,
  );
  let socket: NbdSocket | undefined;
  try {
    socket = await NbdSocket.connect(address, limit.signal);
    const channel = new SocketChannel(socket, address, limit.signal);
    return await handshake(channel);
  } catch (error) {
    socket?.destroy();
    throw error;
  } finally {
    over.abort();
    signal?.removeEventListener("abort", onAbort);
    await timer;
  }
}

/** A handshake on a real socket. */
export interface OpenChannel extends HandshakeChannel {
  readonly socket: NbdSocket;
  /** Throws NbdProtocol where bytes are left when the transmission phase starts. */
  finish(): void;
}

/** Reads exact numbers of bytes off a socket; pauses a server that sends far ahead. */
class SocketChannel implements OpenChannel {
  readonly socket: NbdSocket;
  #buffered: Uint8Array = new Uint8Array(0);
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: NbdSocket, address: NbdAddress, signal: AbortSignal) {
    this.socket = socket;
    const fail = (error: unknown): void => {
      this.#failure ??= { error };
      this.#wake?.();
    };
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
    socket.listen({
      onBytes: (bytes) => {
        this.#buffered = Buffer.concat([this.#buffered, bytes]);
        this.#wake?.();
        return this.#buffered.byteLength < NBD_HANDSHAKE_BUFFER_BYTES;
      },
      onEnd: (error) => fail(nbdUnavailable(address, error?.message ?? "it hung up")),
    });
  }

  async read(lengthBytes: number): Promise<Uint8Array> {
    while (this.#buffered.byteLength < lengthBytes) {
      if (this.#failure !== undefined) throw this.#failure.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.socket.resume();
      });
    }
    const bytes = this.#buffered.subarray(0, lengthBytes);
    this.#buffered = this.#buffered.subarray(lengthBytes);
    return bytes;
  }

  write(bytes: Uint8Array): void {
    this.socket.write([bytes]);
  }

  finish(): void {
    if (this.#buffered.byteLength > 0) {
      throw nbdProtocolError("it sends more than the handshake needs");
    }
  }
}

/** A connection in the transmission phase. */
export class NbdConnection {
  readonly info: NbdExport;
  readonly #address: NbdAddress;
  readonly #socket: NbdSocket;
  readonly #timeouts: NbdTimeouts;
  readonly #flights = new Map<number, Flight>();
  readonly #over = new AbortController();
  #cookie = 0;
  #unsent: Flight[] = [];
  #isWatching = false;
  #isOver = false;
  #lost: { readonly error: Error; readonly unanswered: readonly Flight[] } | undefined;
  #onLost: OnLost | undefined;
  #onIdle: (() => void) | undefined;

  private constructor(parts: {
    readonly address: NbdAddress;
    readonly socket: NbdSocket;
    readonly info: NbdExport;
    readonly timeouts: NbdTimeouts;
  }) {
    this.info = parts.info;
    this.#address = parts.address;
    this.#socket = parts.socket;
    this.#timeouts = parts.timeouts;
    const replies = new ReplyReader({
      flights: this.#flights,
      structuredReplies: this.info.structuredReplies,
      onAnswered: (flight) => {
        this.#settle(flight);
      },
    });
    this.#socket.listen({
      onBytes: (bytes) => {
        if (this.#isOver) return false;
        try {
          replies.consume(bytes);
          return true;
        } catch (error) {
          this.#lose(error as Error);
          return false;
        }
      },
      onEnd: (error) => {
        this.#lose(nbdUnavailable(this.#address, error?.message ?? "it hung up"));
      },
    });
    this.#socket.resume();
  }

  /** Opens a connection to an export; errors as of {@link withHandshake}. */
  static async open(
    address: NbdAddress,
    options: NbdTimeouts & { readonly signal?: AbortSignal | undefined },
    negotiate: (channel: HandshakeChannel) => Promise<NbdExport>,
  ): Promise<NbdConnection> {
    return withHandshake(address, options, async (channel) => {
      const info = await negotiate(channel);
      channel.finish();
      const { socket } = channel;
      return new NbdConnection({ address, socket, info, timeouts: options });
    });
  }

  /** Says who is told of the end; one that has come already is told at once. */
  takeOver(onLost: OnLost): void {
    this.#onLost = onLost;
    if (this.#lost !== undefined) onLost(this.#lost.error, this.#lost.unanswered);
  }

  /**
   * Sends a request; all that are submitted in one turn of the event loop leave in one write. After the end of the
   * connection it does nothing: whoever is told of the end still has the flight.
   */
  submit(flight: Flight): void {
    assert(this.#flights.size < NBD_IN_FLIGHT_MAX, "the requests in flight are bounded");
    if (this.#isOver) return;
    this.#cookie += 1;
    flight.cookie = this.#cookie;
    flight.attempts += 1;
    flight.sentAtMs = this.#timeouts.clock.monotonicMs();
    this.#flights.set(flight.cookie, flight);
    this.#unsent.push(flight);
    if (this.#unsent.length === 1) setImmediate(() => this.#send());
    if (!this.#isWatching) void this.#watch();
  }

  /** Waits for outstanding replies, says goodbye and closes; never throws. */
  async close(): Promise<void> {
    if (this.#isOver) return;
    if (this.#flights.size > 0) await this.#untilIdle();
    if (this.#isOver) return;
    this.#isOver = true;
    const goodbye = new DataView(new ArrayBuffer(NBD_REQUEST_BYTES));
    const { disconnect } = nbdCommand;
    const request = { command: disconnect, flags: 0, cookie: 0, offsetBytes: 0, lengthBytes: 0 };
    encodeNbdRequest(request, goodbye, 0);
    this.#socket.write([new Uint8Array(goodbye.buffer)]);
    this.#over.abort();
    await this.#socket.close(NBD_DISCONNECT_WAIT_MS, this.#timeouts.clock);
  }

  /** Drops the connection as if the server had hung up. */
  destroy(error: Error): void {
    this.#lose(error);
  }

  async #untilIdle(): Promise<void> {
    const patience = new AbortController();
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
    const late = this.#timeouts.clock.sleep(NBD_DISCONNECT_WAIT_MS, patience.signal).catch(() => {
      // Idle in time.
    });
    await Promise.race([idle, late]);
    patience.abort();
  }

  #send(): void {
    const flights = this.#unsent;
    this.#unsent = [];
    if (this.#isOver) return;
    const headers = new DataView(new ArrayBuffer(flights.length * NBD_REQUEST_BYTES));
    const parts: Uint8Array[] = [];
    let from = 0;
    for (const [index, flight] of flights.entries()) {
      const at = index * NBD_REQUEST_BYTES;
      encodeNbdRequest({ ...flight.request, cookie: flight.cookie }, headers, at);
      if (flight.request.payload === undefined) continue;
      const end = at + NBD_REQUEST_BYTES;
      parts.push(new Uint8Array(headers.buffer, from, end - from), flight.request.payload);
      from = end;
    }
    if (from < headers.byteLength) parts.push(new Uint8Array(headers.buffer, from));
    this.#socket.write(parts);
  }

  /** Drops the connection when the oldest request waits too long. Runs while there are requests. */
  async #watch(): Promise<void> {
    this.#isWatching = true;
    const { clock, requestTimeoutMs } = this.#timeouts;
    for (;;) {
      // The map keeps the order of sending, so the first one is the oldest.
      const oldest = this.#flights.values().next().value;
      if (oldest === undefined || this.#isOver) break;
      const leftMs = oldest.sentAtMs + requestTimeoutMs - clock.monotonicMs();
      if (leftMs <= 0) {
        const reason = `no answer within ${String(requestTimeoutMs)} ms`;
        this.#lose(nbdUnavailable(this.#address, reason));
        break;
      }
      try {
        await clock.sleep(leftMs, this.#over.signal);
      } catch {
        // The connection is over: there is nothing left to watch.
        break;
      }
    }
    this.#isWatching = false;
  }

  #settle(flight: Flight): void {
    if (flight.error?.errno === nbdErrno.ESHUTDOWN) {
      this.#flights.set(flight.cookie, flight);
      this.#lose(nbdUnavailable(this.#address, "it is shutting down"));
      return;
    }
    flight.settle(undefined);
    if (this.#flights.size === 0) this.#onIdle?.();
  }

  #lose(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#socket.destroy();
    this.#over.abort();
    const unanswered = [...this.#flights.values()];
    this.#flights.clear();
    this.#onIdle?.();
    this.#lost = { error, unanswered };
    this.#onLost?.(error, unanswered);
  }
}
