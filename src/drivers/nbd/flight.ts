/** One request on its way and what its replies have brought so far. */
import { assert } from "#base/assert.ts";
import { nbdProtocolError, type NbdCommand, type NbdStatusDescriptor } from "#formats/nbd-wire.ts";
import { NBD_READ_FRAGMENTS_MAX } from "./limits.ts";

/** What is asked of the server. */
export interface FlightRequest {
  readonly command: NbdCommand;
  readonly flags: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** What a read fills. */
  readonly target?: Uint8Array;
  /** What a write sends; not changed until it has settled. */
  readonly payload?: Uint8Array;
}

/** An error of the server. */
export interface FlightError {
  readonly errno: number;
  readonly message: string;
}

/** A request, its replies, and its end. */
export class Flight {
  readonly request: FlightRequest;
  readonly #onSettled: (failure: Error | undefined) => void;
  cookie = 0;
  sentAtMs = 0;
  /** How often it was sent. */
  attempts = 0;
  /** The first error that the server named. */
  error: FlightError | undefined;
  /** Descriptors by context id. */
  readonly statuses = new Map<number, readonly NbdStatusDescriptor[]>();
  #target: Uint8Array | undefined;
  #abandoned = false;
  #settled = false;
  #covered = new Coverage();

  /** `onSettled` is called once, when the server has answered (no failure) or never will. */
  constructor(request: FlightRequest, onSettled: (failure: Error | undefined) => void) {
    this.request = request;
    this.#onSettled = onSettled;
    this.#target = request.target;
  }

  settle(failure: Error | undefined): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#onSettled(failure);
  }

  /** Nobody waits for it any more: what still comes is dropped, and the target left alone. */
  get isAbandoned(): boolean {
    return this.#abandoned;
  }

  abandon(): void {
    this.#abandoned = true;
    this.#target = undefined;
  }

  /** Forgets what an earlier connection brought. */
  restart(): void {
    this.error = undefined;
    this.statuses.clear();
    this.#covered = new Coverage();
  }

  /** Notes that the server sends bytes of a read, and checks that it may. */
  cover(offsetBytes: number, lengthBytes: number): void {
    const start = offsetBytes - this.request.offsetBytes;
    if (lengthBytes === 0 || start < 0 || start + lengthBytes > this.request.lengthBytes) {
      throw nbdProtocolError("it sends data that was not asked for");
    }
    this.#covered.add(start, start + lengthBytes);
  }

  /** Copies bytes of a read that {@link cover} has accepted; `at` counts from its start. */
  fill(at: number, bytes: Uint8Array): void {
    this.#target?.set(bytes, at);
  }

  fillZeros(at: number, lengthBytes: number): void {
    this.#target?.fill(0, at, at + lengthBytes);
  }

  /** Checks at the last reply that a read without error brought all bytes. */
  assertComplete(): void {
    if (this.error !== undefined || this.request.target === undefined) return;
    if (!this.#covered.isWhole(this.request.lengthBytes)) {
      throw nbdProtocolError("it sends less data than was asked for");
    }
  }
}

/** Which parts of a read have come: ranges in order that neither touch nor overlap. */
export class Coverage {
  #ranges: { start: number; end: number }[] = [];

  /** Adds a range that lies beside all others; NbdProtocol where it does not. */
  add(start: number, end: number): void {
    assert(start < end, "a range is not empty");
    const last = this.#ranges.at(-1);
    if (last === undefined || start > last.end) this.#ranges.push({ start, end });
    else if (start === last.end) last.end = end;
    else this.#insert(start, end);
    if (this.#ranges.length > NBD_READ_FRAGMENTS_MAX) {
      throw nbdProtocolError("it sends a read in too many pieces");
    }
  }

  isWhole(lengthBytes: number): boolean {
    if (lengthBytes === 0) return this.#ranges.length === 0;
    const [first] = this.#ranges;
    return this.#ranges.length === 1 && first?.start === 0 && first.end === lengthBytes;
  }

  #insert(start: number, end: number): void {
    const index = this.#ranges.findIndex((range) => range.end >= start);
    const next = this.#ranges[index];
    assert(next !== undefined, "the range lies before the end of the last one");
    const after = next.end === start ? this.#ranges[index + 1] : next;
    if (after !== undefined && end > after.start) {
      throw nbdProtocolError("it sends the same data twice");
    }
    if (next.end === start) {
      next.end = end;
      if (after?.start === end)
        this.#ranges.splice(index, 2, { start: next.start, end: after.end });
    } else if (next.start === end) {
      next.start = start;
    } else {
      this.#ranges.splice(index, 0, { start, end });
    }
  }
}
