/**
 * Codec of the fixed newstyle handshake of the NBD protocol: greeting, options and their replies.
 * Pure; everything parsed is checked, because a server may be hostile.
 *
 * Source: NBD protocol specification, "Fixed newstyle negotiation" and "Option types".
 */
import { assert } from "#base/assert.ts";
import { concatBytes } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import {
  getUint53,
  nbdProtocolError,
  NBD_STRING_BYTES_MAX,
  printable,
  setUint53,
  viewOf,
} from "./nbd-wire.ts";

/** Sizes of the messages that have one, without payload. */
export const NBD_GREETING_BYTES = 18;
export const NBD_OPTION_HEADER_BYTES = 16;
export const NBD_OPTION_REPLY_HEADER_BYTES = 20;
/** Most payload of one reply to an option: the longest are a name and a description. */
export const NBD_OPTION_REPLY_BYTES_MAX = 16 * 1024;
/** Most replies to one option; more exports or contexts than that are refused. */
export const NBD_OPTION_REPLIES_MAX = 10_000;
/** Smallest and largest value a server may name as its smallest block. */
const BLOCK_BYTES_MIN_MAX = 64 * 1024;

const GREETING_MAGIC = 0x4e42_444d_4147_4943n;
const OPTION_MAGIC = 0x4948_4156_454f_5054n;
const OLDSTYLE_MAGIC = 0x0000_4202_8186_1253n;
const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n;

/** Flags of the greeting and of the client's answer. */
export const nbdHandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** Options (NBD_OPT_*). */
export const nbdOption = {
  abort: 2,
  list: 3,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;
/** A value of {@link nbdOption}. */
export type NbdOption = (typeof nbdOption)[keyof typeof nbdOption];

/** Types of replies to options (NBD_REP_*). */
export const nbdOptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errorUnsupported: 2 ** 31 + 1,
  errorPolicy: 2 ** 31 + 2,
  errorInvalid: 2 ** 31 + 3,
  errorPlatform: 2 ** 31 + 4,
  errorTlsRequired: 2 ** 31 + 5,
  errorUnknown: 2 ** 31 + 6,
  errorShutdown: 2 ** 31 + 7,
  errorBlockSizeRequired: 2 ** 31 + 8,
  errorTooBig: 2 ** 31 + 9,
} as const;

/** Kinds of information (NBD_INFO_*). */
export const nbdInfo = { export: 0, blockSize: 3 } as const;

/** Transmission flags of an export (NBD_FLAG_*). */
export const nbdExportFlag = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  sendTrim: 32,
  sendWriteZeroes: 64,
  canMultiConn: 256,
  sendFastZero: 2048,
} as const;

/** What a server says of itself first. */
export interface NbdGreeting {
  readonly noZeroes: boolean;
}

/** The fixed part of a reply to an option. */
export interface NbdOptionReplyHeader {
  readonly option: number;
  readonly type: number;
  readonly payloadBytes: number;
}

/** Smallest, preferred and largest block of an export, in bytes. */
export interface NbdBlockSizes {
  readonly minBytes: number;
  readonly preferredBytes: number;
  readonly maxBytes: number;
}

/** One piece of information on an export. */
export type NbdInfoReply =
  | { readonly kind: "export"; readonly sizeBytes: number; readonly flags: number }
  | { readonly kind: "block-sizes"; readonly sizes: NbdBlockSizes }
  | { readonly kind: "other" };

/** A meta context that the server has selected. */
export interface NbdMetaContext {
  readonly id: number;
  readonly name: string;
}

/** Parses the greeting. NbdProtocol where it is no NBD server, NbdUnsupported for old ones. */
export function parseNbdGreeting(bytes: Uint8Array): NbdGreeting {
  assert(bytes.byteLength === NBD_GREETING_BYTES, "a greeting is whole");
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== GREETING_MAGIC) throw nbdProtocolError("it is no NBD server");
  const style = view.getBigUint64(8);
  if (style === OLDSTYLE_MAGIC) throw tooOld();
  if (style !== OPTION_MAGIC) throw nbdProtocolError("its greeting is wrong");
  const flags = view.getUint16(16);
  if ((flags & nbdHandshakeFlag.fixedNewstyle) === 0) throw tooOld();
  return { noZeroes: (flags & nbdHandshakeFlag.noZeroes) !== 0 };
}

/** The greeting of a server. */
export function encodeNbdGreeting(flags: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(NBD_GREETING_BYTES));
  view.setBigUint64(0, GREETING_MAGIC);
  view.setBigUint64(8, OPTION_MAGIC);
  view.setUint16(16, flags);
  return new Uint8Array(view.buffer);
}

/** The client's answer to a greeting. */
export function encodeNbdClientFlags(greeting: NbdGreeting): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  const noZeroes = greeting.noZeroes ? nbdHandshakeFlag.noZeroes : 0;
  view.setUint32(0, nbdHandshakeFlag.fixedNewstyle | noZeroes);
  return new Uint8Array(view.buffer);
}

/** An option with its data. */
export function encodeNbdOption(option: NbdOption, data: Uint8Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(NBD_OPTION_HEADER_BYTES));
  view.setBigUint64(0, OPTION_MAGIC);
  view.setUint32(8, option);
  view.setUint32(12, data.byteLength);
  return concatBytes([new Uint8Array(view.buffer), data]);
}

/** Parses the header of an option; for servers. */
export function parseNbdOptionHeader(bytes: Uint8Array): {
  readonly option: number;
  readonly payloadBytes: number;
} {
  assert(bytes.byteLength === NBD_OPTION_HEADER_BYTES, "an option header is whole");
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== OPTION_MAGIC) throw nbdProtocolError("an option has a wrong magic");
  return { option: view.getUint32(8), payloadBytes: view.getUint32(12) };
}

/** Data of `go` and `info`: the export and the wish to know its block sizes. */
export function encodeNbdInfoRequest(exportName: string): Uint8Array {
  const name = encodeString(exportName);
  const tail = new DataView(new ArrayBuffer(4));
  tail.setUint16(0, 1);
  tail.setUint16(2, nbdInfo.blockSize);
  return concatBytes([name, new Uint8Array(tail.buffer)]);
}

/** Data of `list-meta-context` and `set-meta-context`. */
export function encodeNbdMetaContextRequest(
  exportName: string,
  queries: readonly string[],
): Uint8Array {
  const count = new DataView(new ArrayBuffer(4));
  count.setUint32(0, queries.length);
  const parts = [encodeString(exportName), new Uint8Array(count.buffer)];
  return concatBytes([...parts, ...queries.map(encodeString)]);
}

/** Parses the header of a reply to an option, of bounded payload. */
export function parseNbdOptionReplyHeader(bytes: Uint8Array): NbdOptionReplyHeader {
  assert(bytes.byteLength === NBD_OPTION_REPLY_HEADER_BYTES, "a reply header is whole");
  const view = viewOf(bytes);
  if (view.getBigUint64(0) !== OPTION_REPLY_MAGIC) {
    throw nbdProtocolError("a reply to an option has a wrong magic");
  }
  const payloadBytes = view.getUint32(16);
  if (payloadBytes > NBD_OPTION_REPLY_BYTES_MAX) {
    throw nbdProtocolError(`a reply to an option has ${String(payloadBytes)} bytes`);
  }
  return { option: view.getUint32(8), type: view.getUint32(12), payloadBytes };
}

/** A reply to an option; for servers. */
export function encodeNbdOptionReply(option: number, type: number, data: Uint8Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(NBD_OPTION_REPLY_HEADER_BYTES));
  view.setBigUint64(0, OPTION_REPLY_MAGIC);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.byteLength);
  return concatBytes([new Uint8Array(view.buffer), data]);
}

/** Parses the payload of an `info` reply. */
export function parseNbdInfo(payload: Uint8Array): NbdInfoReply {
  if (payload.byteLength < 2) throw nbdProtocolError("an information reply is cut off");
  const view = viewOf(payload);
  const type = view.getUint16(0);
  if (type === nbdInfo.export) {
    assertLength(payload, 12, "the export information");
    if (view.getUint32(2) > 0x1f_ffff) {
      throw new KluisError("NbdUnsupported", "Cannot use the NBD export: it is beyond 8 PiB");
    }
    const sizeBytes = getUint53(view, 2, "the size of the export");
    return { kind: "export", sizeBytes, flags: view.getUint16(10) };
  }
  if (type !== nbdInfo.blockSize) return { kind: "other" };
  assertLength(payload, 14, "the block size information");
  return { kind: "block-sizes", sizes: checkedBlockSizes(view) };
}

/** The payload of the `info` reply that describes the export; for servers. */
export function encodeNbdExportInfo(sizeBytes: number, flags: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint16(0, nbdInfo.export);
  setUint53(view, 2, sizeBytes);
  view.setUint16(10, flags);
  return new Uint8Array(view.buffer);
}

/** The payload of the `info` reply with the block sizes; for servers. */
export function encodeNbdBlockSizes(sizes: NbdBlockSizes): Uint8Array {
  const view = new DataView(new ArrayBuffer(14));
  view.setUint16(0, nbdInfo.blockSize);
  view.setUint32(2, sizes.minBytes);
  view.setUint32(6, sizes.preferredBytes);
  view.setUint32(10, sizes.maxBytes);
  return new Uint8Array(view.buffer);
}

/** Parses the payload of a `meta-context` reply. */
export function parseNbdMetaContext(payload: Uint8Array): NbdMetaContext {
  if (payload.byteLength < 5 || payload.byteLength > 4 + NBD_STRING_BYTES_MAX) {
    throw nbdProtocolError("a meta context has no name or one that is too long");
  }
  return { id: viewOf(payload).getUint32(0), name: printable(payload.subarray(4)) };
}

/** The payload of a `meta-context` reply; for servers. */
export function encodeNbdMetaContext(context: NbdMetaContext): Uint8Array {
  const id = new DataView(new ArrayBuffer(4));
  id.setUint32(0, context.id);
  return concatBytes([new Uint8Array(id.buffer), new TextEncoder().encode(context.name)]);
}

/** Parses the payload of a `server` reply: the name of one export. */
export function parseNbdServer(payload: Uint8Array): string {
  const nameBytes = payload.byteLength < 4 ? 0 : viewOf(payload).getUint32(0);
  const fits = payload.byteLength >= 4 && nameBytes <= payload.byteLength - 4;
  if (!fits || nameBytes > NBD_STRING_BYTES_MAX) {
    throw nbdProtocolError("the name of an export is cut off or too long");
  }
  return printable(payload.subarray(4, 4 + nameBytes));
}

function checkedBlockSizes(view: DataView): NbdBlockSizes {
  const minBytes = view.getUint32(2);
  const preferredBytes = view.getUint32(6);
  const maxBytes = view.getUint32(10);
  const isPower = minBytes > 0 && (minBytes & (minBytes - 1)) === 0;
  const inOrder = minBytes <= preferredBytes && preferredBytes <= maxBytes;
  if (!isPower || minBytes > BLOCK_BYTES_MIN_MAX || !inOrder) {
    const sizes = [minBytes, preferredBytes, maxBytes].join(", ");
    throw nbdProtocolError(`its block sizes are ${sizes}`);
  }
  return { minBytes, preferredBytes, maxBytes };
}

function encodeString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  if (bytes.byteLength > NBD_STRING_BYTES_MAX) {
    throw new KluisError("ArgumentInvalid", "Cannot name an NBD export: the name is too long");
  }
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, bytes.byteLength);
  return concatBytes([new Uint8Array(length.buffer), bytes]);
}

function assertLength(payload: Uint8Array, lengthBytes: number, what: string): void {
  if (payload.byteLength !== lengthBytes) {
    throw nbdProtocolError(`${what} has ${String(payload.byteLength)} bytes`);
  }
}

function tooOld(): KluisError {
  return new KluisError(
    "NbdUnsupported",
    "Cannot use the NBD server: it lacks the fixed newstyle handshake",
  );
}
