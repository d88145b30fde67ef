/** Turns the bytes of a server, cut anywhere, into settled flights. Does no I/O. */
import { assert } from "#base/assert.ts";
import {
  nbdChunkType,
  nbdCommand,
  nbdProtocolError,
  NBD_CHUNK_HEADER_BYTES,
  NBD_DATA_OFFSET_BYTES,
  NBD_ERROR_BYTES_MAX,
  NBD_HOLE_BYTES,
  NBD_STATUS_BYTES_MAX,
  getUint53,
  parseNbdErrorChunk,
  parseNbdReplyHeader,
  parseNbdStatus,
  viewOf,
  type NbdReplyHeader,
} from "#formats/nbd-wire.ts";
import type { Flight } from "./flight.ts";

/** What a {@link ReplyReader} works on. */
export interface ReplyReaderOptions {
  /** Requests that were sent and not answered, by cookie; answered ones are removed. */
  readonly flights: Map<number, Flight>;
  readonly structuredReplies: boolean;
  /** Called when the last reply of a flight has come. */
  readonly onAnswered: (flight: Flight) => void;
}

type ChunkHeader = Extract<NbdReplyHeader, { readonly kind: "chunk" }>;

/** What the next bytes are: a header, a small payload to keep, or data of a read. */
type State =
  | { readonly kind: "header" }
  | {
      readonly kind: "collect";
      readonly lengthBytes: number;
      readonly onCollected: (payload: Uint8Array) => void;
    }
  | { readonly kind: "data"; readonly flight: Flight; readonly done: boolean };

const HEADER: State = { kind: "header" };

/**
 * Reads replies of the transmission phase. {@link ReplyReader.consume} throws NbdProtocol (never)
 * on anything that a correct server would not send; the connection is of no use then.
 */
export class ReplyReader {
  readonly #options: ReplyReaderOptions;
  #state: State = HEADER;
  /** Bytes of a header or payload that was cut; holds {@link #keptBytes}. */
  #kept = new Uint8Array(NBD_CHUNK_HEADER_BYTES);
  #keptBytes = 0;
  /** Where the next byte of data goes, from the start of the read, and how many follow. */
  #dataAt = 0;
  #dataBytes = 0;

  constructor(options: ReplyReaderOptions) {
    this.#options = options;
  }

  /** Takes the next bytes; they are not kept. */
  consume(bytes: Uint8Array): void {
    const view = viewOf(bytes);
    let at = 0;
    while (at < bytes.byteLength) {
      const state = this.#state;
      switch (state.kind) {
        case "header":
          at = this.#consumeHeader(bytes, view, at);
          break;
        case "collect":
          at = this.#consumePayload(bytes, at, state);
          break;
        case "data":
          at = this.#consumeData(bytes, at, state);
          break;
      }
    }
  }

  #consumeHeader(bytes: Uint8Array, view: DataView, at: number): number {
    if (this.#keptBytes === 0) {
      const header = parseNbdReplyHeader(view, at, bytes.byteLength);
      if (header !== undefined) return this.#beginReply(header, at);
    }
    // One byte at a time, because only the bytes so far tell how long the header is.
    this.#kept[this.#keptBytes] = bytes[at] as number;
    this.#keptBytes += 1;
    const header = parseNbdReplyHeader(viewOf(this.#kept), 0, this.#keptBytes);
    if (header === undefined) return at + 1;
    const headerBytes = this.#keptBytes;
    this.#keptBytes = 0;
    return this.#beginReply(header, at + 1 - headerBytes);
  }

  /** Takes a header that starts at `at`; returns where what follows it starts. */
  #beginReply(header: NbdReplyHeader, at: number): number {
    const flight = this.#options.flights.get(header.cookie);
    if (flight === undefined) throw nbdProtocolError("it answers what was not asked");
    if (header.kind === "chunk") {
      if (!this.#options.structuredReplies) {
        throw nbdProtocolError("it sends a structured reply, which was not agreed");
      }
      this.#beginChunk(header, flight);
      return at + NBD_CHUNK_HEADER_BYTES;
    }
    this.#beginSimple(header.errno, flight);
    return at + 16;
  }

  #beginSimple(errno: number, flight: Flight): void {
    const { command, lengthBytes } = flight.request;
    const isStructured = command === nbdCommand.read || command === nbdCommand.blockStatus;
    if (this.#options.structuredReplies && isStructured) {
      throw nbdProtocolError("it sends a simple reply where a structured one was agreed");
    }
    if (errno !== 0) {
      flight.error ??= { errno, message: "" };
    } else if (command === nbdCommand.read) {
      flight.cover(flight.request.offsetBytes, lengthBytes);
      this.#beginData({ flight, done: true }, 0, lengthBytes);
      return;
    }
    this.#endReply(flight, true);
  }

  #beginChunk(header: ChunkHeader, flight: Flight): void {
    const { done, payloadBytes, type } = header;
    const { command } = flight.request;
    if ((type & 0x8000) !== 0) {
      this.#collect(payloadBytes, { min: 6, max: NBD_ERROR_BYTES_MAX }, (payload) => {
        flight.error ??= parseNbdErrorChunk(payload);
        this.#endReply(flight, done);
      });
    } else if (type === nbdChunkType.none) {
      if (payloadBytes !== 0 || !done) throw nbdProtocolError("its empty chunk is not the last");
      this.#endReply(flight, true);
    } else if (type === nbdChunkType.offsetData && command === nbdCommand.read) {
      const dataBytes = payloadBytes - NBD_DATA_OFFSET_BYTES;
      if (dataBytes <= 0) throw nbdProtocolError("it sends a chunk without data");
      this.#collect(NBD_DATA_OFFSET_BYTES, EXACTLY_DATA_OFFSET, (payload) => {
        const offsetBytes = getUint53(viewOf(payload), 0, "the offset of data");
        flight.cover(offsetBytes, dataBytes);
        this.#beginData({ flight, done }, offsetBytes - flight.request.offsetBytes, dataBytes);
      });
    } else if (type === nbdChunkType.offsetHole && command === nbdCommand.read) {
      this.#collect(payloadBytes, { min: NBD_HOLE_BYTES, max: NBD_HOLE_BYTES }, (payload) => {
        fillHole(flight, payload);
        this.#endReply(flight, done);
      });
    } else if (type === nbdChunkType.blockStatus && command === nbdCommand.blockStatus) {
      this.#collect(payloadBytes, { min: 12, max: NBD_STATUS_BYTES_MAX }, (payload) => {
        addStatus(flight, payload);
        this.#endReply(flight, done);
      });
    } else {
      throw nbdProtocolError(`it answers command ${String(command)} by chunk ${String(type)}`);
    }
  }

  #collect(
    lengthBytes: number,
    bounds: { readonly min: number; readonly max: number },
    onCollected: (payload: Uint8Array) => void,
  ): void {
    if (lengthBytes < bounds.min || lengthBytes > bounds.max) {
      throw nbdProtocolError(`a chunk has ${String(lengthBytes)} bytes`);
    }
    this.#state = { kind: "collect", lengthBytes, onCollected };
  }

  #consumePayload(
    bytes: Uint8Array,
    at: number,
    state: Extract<State, { readonly kind: "collect" }>,
  ): number {
    const { lengthBytes } = state;
    if (this.#keptBytes === 0 && bytes.byteLength - at >= lengthBytes) {
      state.onCollected(bytes.subarray(at, at + lengthBytes));
      return at + lengthBytes;
    }
    this.#reserve(lengthBytes);
    const takenBytes = Math.min(lengthBytes - this.#keptBytes, bytes.byteLength - at);
    this.#kept.set(bytes.subarray(at, at + takenBytes), this.#keptBytes);
    this.#keptBytes += takenBytes;
    if (this.#keptBytes === lengthBytes) {
      const payload = this.#kept.subarray(0, lengthBytes);
      this.#keptBytes = 0;
      state.onCollected(payload);
    }
    return at + takenBytes;
  }

  /** Makes room for `lengthBytes` kept bytes, as they come and not as a server announces them. */
  #reserve(lengthBytes: number): void {
    if (this.#kept.byteLength >= lengthBytes) return;
    assert(lengthBytes <= NBD_STATUS_BYTES_MAX, "payloads that are kept are bounded");
    const larger = new Uint8Array(lengthBytes);
    larger.set(this.#kept.subarray(0, this.#keptBytes));
    this.#kept = larger;
  }

  #beginData(
    data: { readonly flight: Flight; readonly done: boolean },
    at: number,
    lengthBytes: number,
  ): void {
    this.#state = { kind: "data", ...data };
    this.#dataAt = at;
    this.#dataBytes = lengthBytes;
  }

  #consumeData(
    bytes: Uint8Array,
    at: number,
    state: Extract<State, { readonly kind: "data" }>,
  ): number {
    const takenBytes = Math.min(this.#dataBytes, bytes.byteLength - at);
    state.flight.fill(this.#dataAt, bytes.subarray(at, at + takenBytes));
    this.#dataAt += takenBytes;
    this.#dataBytes -= takenBytes;
    if (this.#dataBytes === 0) this.#endReply(state.flight, state.done);
    return at + takenBytes;
  }

  #endReply(flight: Flight, done: boolean): void {
    this.#state = HEADER;
    if (!done) return;
    flight.assertComplete();
    this.#options.flights.delete(flight.cookie);
    this.#options.onAnswered(flight);
  }
}

const EXACTLY_DATA_OFFSET = { min: NBD_DATA_OFFSET_BYTES, max: NBD_DATA_OFFSET_BYTES };

function fillHole(flight: Flight, payload: Uint8Array): void {
  const view = viewOf(payload);
  const offsetBytes = getUint53(view, 0, "the offset of a hole");
  const lengthBytes = view.getUint32(8);
  flight.cover(offsetBytes, lengthBytes);
  flight.fillZeros(offsetBytes - flight.request.offsetBytes, lengthBytes);
}

function addStatus(flight: Flight, payload: Uint8Array): void {
  const { contextId, descriptors } = parseNbdStatus(payload);
  if (flight.statuses.has(contextId)) {
    throw nbdProtocolError("it sends the status of a context twice");
  }
  flight.statuses.set(contextId, descriptors);
}
