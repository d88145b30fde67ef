/**
 * Codec of the transmission phase of the NBD protocol: requests, simple and structured replies,
 * block status and errors. Pure; everything parsed is checked, because a server may be hostile.
 *
 * Source: NBD protocol specification, "Transmission phase" and "Structured reply".
 */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";

/** Sizes of the headers on the wire. */
export const NBD_REQUEST_BYTES = 28;
export const NBD_SIMPLE_REPLY_BYTES = 16;
export const NBD_CHUNK_HEADER_BYTES = 20;
/** Offset in front of the data of a read chunk. */
export const NBD_DATA_OFFSET_BYTES = 8;
/** Payload of a hole chunk: offset and length. */
export const NBD_HOLE_BYTES = 12;
/** Longest error message of a server; the specification's limit for strings. */
export const NBD_STRING_BYTES_MAX = 4096;
/** Most payload of an error chunk: error, message length, message, offset. */
export const NBD_ERROR_BYTES_MAX = 4 + 2 + NBD_STRING_BYTES_MAX + 8;
/** Most payload of a block status chunk: 2^20 extents, the most that nbdkit sends (QEMU: 2^17). */
export const NBD_STATUS_BYTES_MAX = 4 + 8 * 2 ** 20;
/** Longest range of one request other than a read or write. */
export const NBD_REQUEST_LENGTH_MAX = 0xffff_ffff;

const REQUEST_MAGIC = 0x2560_9513;
const SIMPLE_REPLY_MAGIC = 0x6744_6698;
const CHUNK_MAGIC = 0x668e_33ef;
const CHUNK_FLAG_DONE = 1;

/** Commands of the transmission phase (NBD_CMD_*). */
export const nbdCommand = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  writeZeroes: 6,
  blockStatus: 7,
} as const;
/** A value of {@link nbdCommand}. */
export type NbdCommand = (typeof nbdCommand)[keyof typeof nbdCommand];

/** Flags of a request (NBD_CMD_FLAG_*). */
export const nbdCommandFlag = { fua: 1, noHole: 2, reqOne: 8, fastZero: 16 } as const;

/** Types of reply chunks (NBD_REPLY_TYPE_*). */
export const nbdChunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: 2 ** 15 + 1,
  errorOffset: 2 ** 15 + 2,
} as const;

/** Error values of the protocol, which are those of Linux. */
export const nbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Flags of `base:allocation` (NBD_STATE_*). */
export const nbdAllocationFlag = { hole: 1, zero: 2 } as const;

/** One request. `cookie` comes back in its replies. */
export interface NbdRequest {
  readonly command: NbdCommand;
  readonly flags: number;
  readonly cookie: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** The fixed part of a reply. */
export type NbdReplyHeader =
  | { readonly kind: "simple"; readonly cookie: number; readonly errno: number }
  | {
      readonly kind: "chunk";
      readonly cookie: number;
      readonly type: number;
      readonly done: boolean;
      readonly payloadBytes: number;
    };

/** State of one extent in one meta context. */
export interface NbdStatusDescriptor {
  readonly lengthBytes: number;
  readonly flags: number;
}

/** What a server says about an error. */
export interface NbdErrorChunk {
  readonly errno: number;
  readonly message: string;
}

/** Writes `request` to `target` at `at`; it takes {@link NBD_REQUEST_BYTES}. */
export function encodeNbdRequest(request: NbdRequest, target: DataView, at: number): void {
  assert(request.lengthBytes <= NBD_REQUEST_LENGTH_MAX, "the length of a request has 32 bits");
  target.setUint32(at, REQUEST_MAGIC);
  target.setUint16(at + 4, request.flags);
  target.setUint16(at + 6, request.command);
  setUint53(target, at + 8, request.cookie);
  setUint53(target, at + 16, request.offsetBytes);
  target.setUint32(at + 24, request.lengthBytes);
}

/** Parses a request; for servers. NbdProtocol where it is none. */
export function parseNbdRequest(bytes: DataView, at: number): NbdRequest {
  if (bytes.getUint32(at) !== REQUEST_MAGIC)
    throw nbdProtocolError("the request has a wrong magic");
  return {
    flags: bytes.getUint16(at + 4),
    command: bytes.getUint16(at + 6) as NbdCommand,
    cookie: getUint53(bytes, at + 8, "the cookie"),
    offsetBytes: getUint53(bytes, at + 16, "the offset"),
    lengthBytes: bytes.getUint32(at + 24),
  };
}

/**
 * Parses the header of a reply at `at`. `undefined` where fewer than {@link NBD_SIMPLE_REPLY_BYTES}
 * (simple) or {@link NBD_CHUNK_HEADER_BYTES} (chunk) bytes are there before `end`. NbdProtocol on
 * anything that is no reply.
 */
export function parseNbdReplyHeader(
  bytes: DataView,
  at: number,
  end: number,
): NbdReplyHeader | undefined {
  if (end - at < 4) return undefined;
  const magic = bytes.getUint32(at);
  if (magic === SIMPLE_REPLY_MAGIC) {
    if (end - at < NBD_SIMPLE_REPLY_BYTES) return undefined;
    const cookie = getUint53(bytes, at + 8, "the cookie");
    return { kind: "simple", cookie, errno: bytes.getUint32(at + 4) };
  }
  if (magic !== CHUNK_MAGIC) throw nbdProtocolError("a reply has a wrong magic");
  if (end - at < NBD_CHUNK_HEADER_BYTES) return undefined;
  return {
    kind: "chunk",
    cookie: getUint53(bytes, at + 8, "the cookie"),
    type: bytes.getUint16(at + 6),
    done: (bytes.getUint16(at + 4) & CHUNK_FLAG_DONE) !== 0,
    payloadBytes: bytes.getUint32(at + 16),
  };
}

/** Encodes the header of a reply; for servers. */
export function encodeNbdReplyHeader(header: NbdReplyHeader): Uint8Array {
  if (header.kind === "simple") {
    const view = new DataView(new ArrayBuffer(NBD_SIMPLE_REPLY_BYTES));
    view.setUint32(0, SIMPLE_REPLY_MAGIC);
    view.setUint32(4, header.errno);
    setUint53(view, 8, header.cookie);
    return new Uint8Array(view.buffer);
  }
  const view = new DataView(new ArrayBuffer(NBD_CHUNK_HEADER_BYTES));
  view.setUint32(0, CHUNK_MAGIC);
  view.setUint16(4, header.done ? CHUNK_FLAG_DONE : 0);
  view.setUint16(6, header.type);
  setUint53(view, 8, header.cookie);
  view.setUint32(16, header.payloadBytes);
  return new Uint8Array(view.buffer);
}

/** Parses the payload of a block status chunk: the context and its descriptors, at least one. */
export function parseNbdStatus(payload: Uint8Array): {
  readonly contextId: number;
  readonly descriptors: readonly NbdStatusDescriptor[];
} {
  const { byteLength } = payload;
  if (byteLength < 12 || (byteLength - 4) % 8 !== 0 || byteLength > NBD_STATUS_BYTES_MAX) {
    throw nbdProtocolError(`a block status has ${String(byteLength)} bytes`);
  }
  const view = viewOf(payload);
  const descriptors: NbdStatusDescriptor[] = [];
  for (let at = 4; at < byteLength; at += 8) {
    const lengthBytes = view.getUint32(at);
    if (lengthBytes === 0) throw nbdProtocolError("a block status has an empty extent");
    descriptors.push({ lengthBytes, flags: view.getUint32(at + 4) });
  }
  return { contextId: view.getUint32(0), descriptors };
}

/** Encodes the payload of a block status chunk; for servers. */
export function encodeNbdStatus(
  contextId: number,
  descriptors: readonly NbdStatusDescriptor[],
): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 + 8 * descriptors.length));
  view.setUint32(0, contextId);
  for (const [index, { lengthBytes, flags }] of descriptors.entries()) {
    view.setUint32(4 + 8 * index, lengthBytes);
    view.setUint32(8 + 8 * index, flags);
  }
  return new Uint8Array(view.buffer);
}

/** Parses the payload of an error chunk of either type; unknown error types have the same start. */
export function parseNbdErrorChunk(payload: Uint8Array): NbdErrorChunk {
  const view = viewOf(payload);
  if (payload.byteLength < 6 || payload.byteLength > NBD_ERROR_BYTES_MAX) {
    throw nbdProtocolError(`an error chunk has ${String(payload.byteLength)} bytes`);
  }
  const errno = view.getUint32(0);
  const messageBytes = view.getUint16(4);
  if (errno === 0) throw nbdProtocolError("an error chunk has no error");
  if (6 + messageBytes > payload.byteLength) {
    throw nbdProtocolError("the message of an error chunk is cut off");
  }
  return { errno, message: printable(payload.subarray(6, 6 + messageBytes)) };
}

/** Name of an error of the protocol, for messages. */
export function nbdErrnoName(errno: number): string {
  const known = Object.entries(nbdErrno).find(([, value]) => value === errno);
  return known?.[0] ?? `error ${String(errno)}`;
}

/** An unsigned 64-bit number that must fit a safe integer; NbdProtocol where it does not. */
export function getUint53(view: DataView, at: number, what: string): number {
  const high = view.getUint32(at);
  if (high > 0x1f_ffff) throw nbdProtocolError(`${what} is beyond 2^53`);
  return high * 2 ** 32 + view.getUint32(at + 4);
}

/** Writes a safe integer as an unsigned 64-bit number. */
export function setUint53(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, "a wire number is a natural number");
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}

/** A server's text with everything replaced that a terminal could act on. */
export function printable(bytes: Uint8Array): string {
  const text = new TextDecoder().decode(bytes.subarray(0, NBD_STRING_BYTES_MAX));
  return text.replaceAll(/[\p{Cc}\p{Cf}]/gu, "?");
}

/** A view of exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The error of a server that broke the protocol. */
export function nbdProtocolError(reason: string): KluisError {
  return new KluisError("NbdProtocol", `Cannot understand the NBD server: ${reason}`);
}
