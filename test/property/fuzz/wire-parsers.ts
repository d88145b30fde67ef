/** Parsers of src/formats that read from a peer and not from the store: NBD and QMP. */
import type { ErrorCode } from "#base/error-codes.ts";
import {
  encodeNbdBlockSizes,
  encodeNbdExportInfo,
  encodeNbdGreeting,
  encodeNbdMetaContext,
  encodeNbdOption,
  encodeNbdOptionReply,
  NBD_GREETING_BYTES,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_REPLY_HEADER_BYTES,
  nbdOption,
  parseNbdGreeting,
  parseNbdInfo,
  parseNbdMetaContext,
  parseNbdOptionHeader,
  parseNbdOptionReplyHeader,
  parseNbdServer,
} from "#formats/nbd-handshake.ts";
import {
  encodeNbdReplyHeader,
  encodeNbdRequest,
  encodeNbdStatus,
  NBD_REQUEST_BYTES,
  parseNbdErrorChunk,
  parseNbdReplyHeader,
  parseNbdRequest,
  parseNbdStatus,
  viewOf,
} from "#formats/nbd-wire.ts";
import { parseQmpMessage, QmpLines } from "#formats/qmp-wire.ts";
import type { Fuzzer } from "./parsers.ts";

const ofNbd: readonly ErrorCode[] = ["NbdProtocol", "NbdUnsupported"];
const none = new Uint8Array(0);

/** Of `bytes` so many, as their reader takes them from a socket. */
function exactly(bytes: Uint8Array, lengthBytes: number): Uint8Array {
  const whole = new Uint8Array(lengthBytes);
  whole.set(bytes.subarray(0, lengthBytes));
  return whole;
}

function fuzzNbd(
  parser: (bytes: Uint8Array) => unknown,
  inputs: readonly Uint8Array[],
  lengthBytes?: number,
): Fuzzer {
  return {
    name: parser.name,
    covers: [parser.name],
    errors: ofNbd,
    inputs: () => inputs,
    parse: (bytes) => {
      parser(lengthBytes === undefined ? bytes : exactly(bytes, lengthBytes));
      return undefined;
    },
  };
}

function nbdRequest(): Uint8Array {
  const bytes = new Uint8Array(NBD_REQUEST_BYTES);
  const request = { flags: 0, command: 0, cookie: 5, offsetBytes: 4096, lengthBytes: 512 } as const;
  encodeNbdRequest(request, viewOf(bytes), 0);
  return bytes;
}

const replies = [
  encodeNbdReplyHeader({ kind: "simple", cookie: 7, errno: 5 }),
  encodeNbdReplyHeader({ kind: "chunk", cookie: 7, type: 1, done: true, payloadBytes: 100 }),
];
const error = Uint8Array.of(0, 0, 0, 5, 0, 3, 1, 2, 3);

/** Every parser of what a peer sends. */
export const wireParsers: readonly Fuzzer[] = [
  fuzzNbd(parseNbdGreeting, [encodeNbdGreeting(3)], NBD_GREETING_BYTES),
  fuzzNbd(parseNbdOptionHeader, [encodeNbdOption(nbdOption.go, none)], NBD_OPTION_HEADER_BYTES),
  fuzzNbd(
    parseNbdOptionReplyHeader,
    [encodeNbdOptionReply(nbdOption.go, 1, none)],
    NBD_OPTION_REPLY_HEADER_BYTES,
  ),
  fuzzNbd(parseNbdInfo, [
    encodeNbdExportInfo(4096, 3),
    encodeNbdBlockSizes({ minBytes: 1, preferredBytes: 4096, maxBytes: 65_536 }),
  ]),
  fuzzNbd(parseNbdMetaContext, [encodeNbdMetaContext({ id: 1, name: "base:allocation" })]),
  fuzzNbd(parseNbdServer, [Uint8Array.of(0, 0, 0, 2, 0x61, 0x62)]),
  fuzzNbd(parseNbdStatus, [encodeNbdStatus(1, [{ lengthBytes: 4096, flags: 3 }])]),
  fuzzNbd(parseNbdErrorChunk, [error]),
  {
    name: "parseNbdRequest",
    covers: ["parseNbdRequest"],
    errors: ofNbd,
    inputs: () => [nbdRequest()],
    parse: (bytes) => {
      parseNbdRequest(viewOf(exactly(bytes, NBD_REQUEST_BYTES)), 0);
      return undefined;
    },
  },
  {
    name: "parseNbdReplyHeader",
    covers: ["parseNbdReplyHeader"],
    errors: ofNbd,
    inputs: () => replies,
    parse: (bytes) => {
      parseNbdReplyHeader(viewOf(bytes), 0, bytes.byteLength);
      return undefined;
    },
  },
  {
    name: "QMP message",
    covers: ["parseQmpMessage"],
    errors: ["QmpFailed"],
    isText: true,
    inputs: () =>
      [
        '{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}\n',
        '{"return":{},"id":"1"}\n{"event":"STOP","data":{}}\n',
        '{"error":{"class":"GenericError","desc":"no"},"id":"2"}\n',
      ].map((text) => new TextEncoder().encode(text)),
    parse: (bytes) => {
      for (const { text } of new QmpLines().add(bytes)) parseQmpMessage(text);
      return undefined;
    },
  },
];
