/** Reads and writes an NBD export, over as many connections in turn as it takes. */
import { assert } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { assertInsideDisk } from "#base/range.ts";
import { Semaphore } from "#base/semaphore.ts";
import { nbdCommand } from "#formats/nbd-wire.ts";
import { nbdUnsupported } from "./errors.ts";
import type { Flight, FlightRequest } from "./flight.ts";
import {
  NBD_CONNECT_TIMEOUT_MS,
  NBD_IN_FLIGHT_DEFAULT,
  NBD_IN_FLIGHT_MAX,
  NBD_PIECE_BYTES,
  NBD_RECONNECT_ATTEMPTS_MAX,
  NBD_REQUEST_TIMEOUT_MS,
  NBD_STATUS_RANGE_BYTES,
  NBD_ZERO_PIECE_BYTES,
} from "./limits.ts";
import { parseNbdUri, type NbdAddress } from "./nbd-address.ts";
import { NbdLink } from "./nbd-link.ts";
import { withHandshake } from "./nbd-connection.ts";
import { listExports, listMetaContexts, type NbdExport } from "./negotiation.ts";
import { toStatusRuns, type NbdStatusRun } from "./status-runs.ts";

/** How a client works. */
export interface NbdClientOptions {
  /** Meta contexts to select; {@link NbdClient.info} tells which of them the server has. */
  readonly metaContexts?: readonly string[];
  /** Requests in flight, 1 to {@link NBD_IN_FLIGHT_MAX}. */
  readonly requestsInFlight?: number;
  /** Attempts to reach a lost server again; 0 for a server that ends with its connection. */
  readonly reconnectAttemptsMax?: number;
  readonly connectTimeoutMs?: number;
  readonly requestTimeoutMs?: number;
  /** Ends the attempt to open; not looked at later. */
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
}

/** A range of an export. */
export interface NbdRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/**
 * An open export. Calls may overlap in time; requests beyond the number in flight wait.
 *
 * A lost connection is opened again and unanswered reads are sent again, unless writes were
 * answered that no flush has made durable: the server may have lost those, so everything fails.
 *
 * Errors: NbdUnavailable (backoff) when the server stays away, NbdProtocol (never), NbdUnsupported
 * (never), DiskReadFailed (backoff) for an error of the server on a read, TargetNoSpace and
 * TargetWriteFailed on writes. An aborted read rejects at once and its target is not touched any
 * more; an aborted write rejects when the server has answered what was sent.
 */
export interface NbdClient extends AsyncDisposable {
  readonly info: NbdExport;
  readonly requestsInFlight: number;
  /** Fills all of `target`. */
  read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Offset and length are multiples of the smallest block. */
  write(offsetBytes: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Makes the range read as zeros, sparse where the server can. Needs `info.canWriteZeroes`. */
  writeZeroes(range: NbdRange, signal?: AbortSignal): Promise<void>;
  /** Tells the server that the content is of no use; what it reads as then is open. */
  trim(range: NbdRange, signal?: AbortSignal): Promise<void>;
  /** Makes every write that was answered before durable. No-op where the server has no cache. */
  flush(signal?: AbortSignal): Promise<void>;
  /**
   * State of a range in all of `info.metaContexts`: runs in order from its start, which cover at
   * least one byte and at most the range. Ask again for the rest.
   */
  blockStatus(range: NbdRange, signal?: AbortSignal): Promise<readonly NbdStatusRun[]>;
  /** Says goodbye and closes. Calls under way reject with Cancelled. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Opens an export. Errors as of {@link NbdClient}, and ImageNotFound where the server has no such export. */
export async function openNbdClient(
  target: string | NbdAddress,
  options: NbdClientOptions = {},
): Promise<NbdClient> {
  const address = typeof target === "string" ? parseNbdUri(target) : target;
  const requestsInFlight = options.requestsInFlight ?? NBD_IN_FLIGHT_DEFAULT;
  assert(requestsInFlight >= 1 && requestsInFlight <= NBD_IN_FLIGHT_MAX, "requests are bounded");
  const link = await NbdLink.open(address, {
    metaContexts: options.metaContexts ?? [],
    reconnectAttemptsMax: options.reconnectAttemptsMax ?? NBD_RECONNECT_ATTEMPTS_MAX,
    signal: options.signal,
    ...toTimeouts(options),
  });
  return new Client(link, requestsInFlight);
}

/** Names of the exports of a server; errors as of {@link NbdClient}. */
export async function listNbdExports(
  target: string | NbdAddress,
  options: NbdClientOptions = {},
): Promise<readonly string[]> {
  const address = typeof target === "string" ? parseNbdUri(target) : target;
  const limits = { ...toTimeouts(options), signal: options.signal };
  return withHandshake(address, limits, async (channel) => {
    const names = await listExports(channel);
    channel.socket.destroy();
    return names;
  });
}

/**
 * Names of the meta contexts of an export that match one of `queries`: a whole name, or a
 * namespace such as `qemu:dirty-bitmap:` for all in it. Empty where the server has no contexts.
 */
export async function listNbdMetaContexts(
  target: string | NbdAddress,
  queries: readonly string[],
  options: NbdClientOptions = {},
): Promise<readonly string[]> {
  const address = typeof target === "string" ? parseNbdUri(target) : target;
  const limits = { ...toTimeouts(options), signal: options.signal };
  return withHandshake(address, limits, async (channel) => {
    const names = await listMetaContexts(channel, address.exportName, queries);
    channel.socket.destroy();
    return names;
  });
}

function toTimeouts(options: NbdClientOptions) {
  return {
    clock: options.clock ?? systemClock,
    connectTimeoutMs: options.connectTimeoutMs ?? NBD_CONNECT_TIMEOUT_MS,
    requestTimeoutMs: options.requestTimeoutMs ?? NBD_REQUEST_TIMEOUT_MS,
  };
}

class Client implements NbdClient {
  readonly requestsInFlight: number;
  readonly #link: NbdLink;
  readonly #permits: Semaphore;
  readonly #pieceBytes: number;
  #isOpen = true;

  constructor(link: NbdLink, requestsInFlight: number) {
    this.#link = link;
    this.requestsInFlight = requestsInFlight;
    this.#permits = new Semaphore(requestsInFlight);
    const { maxBytes, minBytes } = link.info.blockSizes;
    this.#pieceBytes = Math.min(NBD_PIECE_BYTES, maxBytes - (maxBytes % minBytes));
  }

  get info(): NbdExport {
    return this.#link.info;
  }

  async read(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    this.#assertUsable({ offsetBytes, lengthBytes: target.byteLength });
    const range = { offsetBytes, lengthBytes: target.byteLength };
    const aligned = this.#align(range);
    if (aligned.lengthBytes === range.lengthBytes) {
      await this.#readAligned(offsetBytes, target, signal);
      return;
    }
    // Rare: a server with large blocks, asked for part of one.
    const whole = new Uint8Array(aligned.lengthBytes);
    await this.#readAligned(aligned.offsetBytes, whole, signal);
    const at = offsetBytes - aligned.offsetBytes;
    target.set(whole.subarray(at, at + target.byteLength));
  }

  async write(offsetBytes: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    const range = { offsetBytes, lengthBytes: bytes.byteLength };
    this.#assertWritable(range);
    await this.#inPieces(range, {
      pieceBytes: this.#pieceBytes,
      signal,
      toRequest: (piece) => ({
        ...piece,
        command: nbdCommand.write,
        flags: 0,
        payload: part(bytes, piece, offsetBytes),
      }),
    });
  }

  async writeZeroes(range: NbdRange, signal?: AbortSignal): Promise<void> {
    this.#assertWritable(range);
    if (!this.info.canWriteZeroes) throw nbdUnsupported(this.#link.address, "writing zeros");
    await this.#inPieces(range, {
      pieceBytes: NBD_ZERO_PIECE_BYTES,
      signal,
      toRequest: (piece) => ({ ...piece, command: nbdCommand.writeZeroes, flags: 0 }),
    });
  }

  async trim(range: NbdRange, signal?: AbortSignal): Promise<void> {
    this.#assertWritable(range);
    if (!this.info.canTrim) throw nbdUnsupported(this.#link.address, "trimming");
    await this.#inPieces(range, {
      pieceBytes: NBD_ZERO_PIECE_BYTES,
      signal,
      toRequest: (piece) => ({ ...piece, command: nbdCommand.trim, flags: 0 }),
    });
  }

  async flush(signal?: AbortSignal): Promise<void> {
    this.#assertUsable({ offsetBytes: 0, lengthBytes: 0 });
    if (!this.info.canFlush) return;
    const { flush } = nbdCommand;
    await this.#request({ command: flush, flags: 0, offsetBytes: 0, lengthBytes: 0 }, signal);
  }

  async blockStatus(range: NbdRange, signal?: AbortSignal): Promise<readonly NbdStatusRun[]> {
    this.#assertUsable(range);
    assert(range.lengthBytes > 0, "the range is not empty");
    const { metaContexts } = this.info;
    if (metaContexts.length === 0) throw nbdUnsupported(this.#link.address, "meta contexts");
    const lengthBytes = Math.min(range.lengthBytes, NBD_STATUS_RANGE_BYTES);
    const endBytes = range.offsetBytes + lengthBytes;
    const asked = this.#align({ offsetBytes: range.offsetBytes, lengthBytes });
    const { blockStatus } = nbdCommand;
    const flight = await this.#request({ ...asked, command: blockStatus, flags: 0 }, signal);
    const window = { offsetBytes: asked.offsetBytes, startBytes: range.offsetBytes, endBytes };
    return toStatusRuns(flight.statuses, metaContexts, window);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#link.close();
  }

  async #readAligned(offsetBytes: number, target: Uint8Array, signal?: AbortSignal): Promise<void> {
    await this.#inPieces(
      { offsetBytes, lengthBytes: target.byteLength },
      {
        pieceBytes: this.#pieceBytes,
        signal,
        toRequest: (piece) => ({
          ...piece,
          command: nbdCommand.read,
          flags: 0,
          target: part(target, piece, offsetBytes),
        }),
      },
    );
  }

  /** Asks for a range piece by piece, several at once. Rejects when all pieces have settled. */
  async #inPieces(range: NbdRange, plan: PiecePlan): Promise<void> {
    const { pieceBytes, signal, toRequest } = plan;
    signal?.throwIfAborted();
    if (range.lengthBytes === 0) return;
    if (range.lengthBytes <= pieceBytes) {
      await this.#request(toRequest(range), signal);
      return;
    }
    const endBytes = range.offsetBytes + range.lengthBytes;
    const pieces: Promise<void>[] = [];
    const failures: unknown[] = [];
    const fail = (reason: unknown): void => {
      failures.push(reason);
    };
    for (let at = range.offsetBytes; at < endBytes; at += pieceBytes) {
      const piece = { offsetBytes: at, lengthBytes: Math.min(pieceBytes, endBytes - at) };
      const hasPermit = await this.#permits.acquire(signal).then(() => true, fail);
      if (failures.length > 0) {
        if (hasPermit === true) this.#permits.release();
        break;
      }
      pieces.push(this.#send(toRequest(piece), signal).then(() => undefined, fail));
    }
    await Promise.all(pieces);
    if (failures.length > 0) throw failures[0];
  }

  async #request(request: FlightRequest, signal: AbortSignal | undefined): Promise<Flight> {
    await this.#permits.acquire(signal);
    return this.#send(request, signal);
  }

  /** Sends a request for which the caller has a permit, and gives that back. */
  #send(request: FlightRequest, signal: AbortSignal | undefined): Promise<Flight> {
    return this.#link.send(request, this.#onFree, signal);
  }

  readonly #onFree = (): void => {
    this.#permits.release();
  };

  /** The range grown to whole blocks of the server. */
  #align(range: NbdRange): NbdRange {
    const { minBytes } = this.info.blockSizes;
    const offsetBytes = range.offsetBytes - (range.offsetBytes % minBytes);
    const endBytes = range.offsetBytes + range.lengthBytes;
    return { offsetBytes, lengthBytes: Math.ceil(endBytes / minBytes) * minBytes - offsetBytes };
  }

  #assertUsable(range: NbdRange): void {
    assert(this.#isOpen, "the NBD client is open");
    assertInsideDisk(this.info.sizeBytes, range.offsetBytes, range.lengthBytes);
  }

  #assertWritable(range: NbdRange): void {
    this.#assertUsable(range);
    if (this.info.readOnly) throw nbdUnsupported(this.#link.address, "permission to write");
    const { minBytes } = this.info.blockSizes;
    const isWhole = range.offsetBytes % minBytes === 0 && range.lengthBytes % minBytes === 0;
    assert(isWhole, "a write has whole blocks");
  }
}

/** How a range is asked for. */
interface PiecePlan {
  readonly pieceBytes: number;
  readonly signal: AbortSignal | undefined;
  readonly toRequest: (piece: NbdRange) => FlightRequest;
}

/** The bytes of `whole`, which lies at `offsetBytes`, that belong to `piece`; not copied. */
function part(whole: Uint8Array, piece: NbdRange, offsetBytes: number): Uint8Array {
  const at = piece.offsetBytes - offsetBytes;
  return whole.subarray(at, at + piece.lengthBytes);
}
