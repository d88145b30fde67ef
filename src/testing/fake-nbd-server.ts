/**
 * An NBD server on a memory disk that can be told to misbehave: cut, reorder, stall, lie, hang up.
 * For faults that qemu-nbd and nbdkit cannot be made to commit.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { concatBytes } from "#base/bytes.ts";
import {
  encodeNbdBlockSizes,
  encodeNbdExportInfo,
  encodeNbdGreeting,
  encodeNbdMetaContext,
  encodeNbdOptionReply,
  nbdExportFlag,
  nbdHandshakeFlag,
  nbdOption,
  nbdOptionReply,
  NBD_OPTION_HEADER_BYTES,
  parseNbdOptionHeader,
  type NbdBlockSizes,
} from "#formats/nbd-handshake.ts";
import {
  encodeNbdReplyHeader,
  encodeNbdStatus,
  nbdChunkType,
  nbdCommand,
  NBD_REQUEST_BYTES,
  parseNbdRequest,
  setUint53,
  viewOf,
  type NbdRequest,
  type NbdStatusDescriptor,
} from "#formats/nbd-wire.ts";
import type { MemoryDisk } from "./memory-disk.ts";
import type { Prng } from "./seed.ts";

/**
 * What the server does with one request instead of answering it: sends these bytes (later), stays
 * silent, hangs up after what it has said so far, or answers with an error.
 */
export type FakeAnswer =
  | Uint8Array
  | Promise<Uint8Array>
  | "silence"
  | "hang-up"
  | { readonly errno: number }
  | undefined;

/** What a fake server offers and how it misbehaves. */
export interface FakeNbdOptions {
  readonly disk: MemoryDisk;
  readonly flags?: number;
  readonly structuredReplies?: boolean;
  readonly blockSizes?: NbdBlockSizes;
  /** Meta contexts by name; each tells the state of a range. */
  readonly contexts?: Readonly<
    Record<string, (range: NbdRequest) => readonly NbdStatusDescriptor[]>
  >;
  /** Sends reads in random pieces in random order. */
  readonly shuffle?: Prng;
  /** Asked for every request; `undefined` answers it properly. */
  readonly onRequest?: (request: NbdRequest, count: number) => FakeAnswer;
  /** Sent instead of the greeting and everything else. */
  readonly greeting?: Uint8Array;
}

/** A listening fake. */
export interface FakeNbdServer extends AsyncDisposable {
  readonly uri: string;
  readonly socketPath: string;
  /** Requests seen, in order, over all connections. */
  readonly requests: readonly NbdRequest[];
  readonly connectionsSeen: number;
  /** Cuts every connection. */
  hangUp(): void;
  /** Stops listening and cuts; {@link FakeNbdServer.start} listens again at the same place. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** All transmission flags that the fake implements. */
export const FAKE_NBD_WRITABLE =
  nbdExportFlag.hasFlags |
  nbdExportFlag.sendFlush |
  nbdExportFlag.sendTrim |
  nbdExportFlag.sendWriteZeroes;

/** Starts a fake on a Unix socket in a folder of its own. */
export async function startFakeNbdServer(options: FakeNbdOptions): Promise<FakeNbdServer> {
  const folder = await mkdtemp(join(tmpdir(), "kluis-nbd-"));
  const fake = new Fake(options, join(folder, "socket"), folder);
  await fake.start();
  return fake;
}

class Fake implements FakeNbdServer {
  readonly options: FakeNbdOptions;
  readonly socketPath: string;
  readonly requests: NbdRequest[] = [];
  connectionsSeen = 0;
  readonly #folder: string;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(options: FakeNbdOptions, socketPath: string, folder: string) {
    this.options = options;
    this.socketPath = socketPath;
    this.#folder = folder;
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.socketPath}`;
  }

  async start(): Promise<void> {
    await rm(this.socketPath, { force: true });
    const server = createServer((socket) => {
      this.connectionsSeen += 1;
      this.#sockets.add(socket);
      socket.on("error", () => socket.destroy());
      socket.on("close", () => this.#sockets.delete(socket));
      new FakeConnection(this, socket).start();
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.socketPath, resolve));
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.hangUp();
    const server = this.#server;
    if (server !== undefined) await new Promise<void>((resolve) => server.close(() => resolve()));
    this.#server = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

class FakeConnection {
  readonly #fake: Fake;
  readonly #socket: Socket;
  #buffered: Uint8Array = new Uint8Array(0);
  #step: () => boolean = () => this.#readFlags();
  #structured = false;
  #contexts: string[] = [];

  constructor(fake: Fake, socket: Socket) {
    this.#fake = fake;
    this.#socket = socket;
  }

  start(): void {
    const { greeting } = this.#fake.options;
    const flags = nbdHandshakeFlag.fixedNewstyle | nbdHandshakeFlag.noZeroes;
    this.#socket.write(greeting ?? encodeNbdGreeting(flags));
    if (greeting !== undefined) this.#step = () => this.#take(this.#buffered.byteLength) === null;
    this.#socket.on("data", (bytes: Uint8Array) => {
      this.#buffered = concatBytes([this.#buffered, bytes]);
      while (!this.#socket.destroyed && this.#step());
    });
  }

  #take(lengthBytes: number): Uint8Array | undefined {
    if (this.#buffered.byteLength < lengthBytes) return undefined;
    const taken = this.#buffered.subarray(0, lengthBytes);
    this.#buffered = this.#buffered.subarray(lengthBytes);
    return taken;
  }

  #readFlags(): boolean {
    if (this.#take(4) === undefined) return false;
    this.#step = () => this.#readOption();
    return true;
  }

  #readOption(): boolean {
    if (this.#buffered.byteLength < NBD_OPTION_HEADER_BYTES) return false;
    const header = parseNbdOptionHeader(this.#buffered.subarray(0, NBD_OPTION_HEADER_BYTES));
    const taken = this.#take(NBD_OPTION_HEADER_BYTES + header.payloadBytes);
    if (taken === undefined) return false;
    this.#answerOption(header.option, taken.subarray(NBD_OPTION_HEADER_BYTES));
    return true;
  }

  #answerOption(option: number, data: Uint8Array): void {
    const { options } = this.#fake;
    const reply = (type: number, payload: Uint8Array = new Uint8Array(0)): void => {
      this.#socket.write(encodeNbdOptionReply(option, type, payload));
    };
    if (option === nbdOption.structuredReply && options.structuredReplies !== false) {
      this.#structured = true;
      reply(nbdOptionReply.ack);
    } else if (option === nbdOption.setMetaContext) {
      const text = new TextDecoder("latin1").decode(data);
      this.#contexts = Object.keys(options.contexts ?? {}).filter((name) => text.includes(name));
      for (const [index, name] of this.#contexts.entries()) {
        reply(nbdOptionReply.metaContext, encodeNbdMetaContext({ id: index + 7, name }));
      }
      reply(nbdOptionReply.ack);
    } else if (option === nbdOption.go) {
      const flags = options.flags ?? nbdExportFlag.hasFlags | nbdExportFlag.readOnly;
      reply(nbdOptionReply.info, encodeNbdExportInfo(options.disk.sizeBytes, flags));
      const sizes = { minBytes: 1, preferredBytes: 4096, maxBytes: 32 * 1024 * 1024 };
      reply(nbdOptionReply.info, encodeNbdBlockSizes(options.blockSizes ?? sizes));
      reply(nbdOptionReply.ack);
      this.#step = () => this.#readRequest();
    } else {
      reply(nbdOptionReply.errorUnsupported);
    }
  }

  #readRequest(): boolean {
    if (this.#buffered.byteLength < NBD_REQUEST_BYTES) return false;
    const request = parseNbdRequest(viewOf(this.#buffered), 0);
    const payloadBytes = request.command === nbdCommand.write ? request.lengthBytes : 0;
    const taken = this.#take(NBD_REQUEST_BYTES + payloadBytes);
    if (taken === undefined) return false;
    this.#fake.requests.push(request);
    const { onRequest } = this.#fake.options;
    const answer = onRequest?.(request, this.#fake.requests.length);
    if (answer === "silence") return true;
    if (answer === "hang-up" || request.command === nbdCommand.disconnect) {
      this.#socket.end();
      return false;
    } else if (answer instanceof Promise) {
      void answer.then((bytes) => this.#socket.write(bytes));
    } else if (answer instanceof Uint8Array) {
      this.#socket.write(answer);
    } else if (answer !== undefined) {
      this.#socket.write(this.#errorReply(request, answer.errno));
    } else {
      this.#perform(request, taken.subarray(NBD_REQUEST_BYTES));
    }
    return true;
  }

  #perform(request: NbdRequest, payload: Uint8Array): void {
    const { disk } = this.#fake.options;
    const { command, cookie, lengthBytes, offsetBytes } = request;
    if (command === nbdCommand.write) disk.write(offsetBytes, payload);
    if (command === nbdCommand.writeZeroes) disk.zero(offsetBytes, lengthBytes);
    if (command === nbdCommand.read) {
      const data = new Uint8Array(lengthBytes);
      disk.read(offsetBytes, data);
      this.#socket.write(this.#readReply(request, data));
    } else if (command === nbdCommand.blockStatus) {
      this.#socket.write(this.#statusReply(request));
    } else {
      this.#socket.write(encodeNbdReplyHeader({ kind: "simple", cookie, errno: 0 }));
    }
  }

  #readReply(request: NbdRequest, data: Uint8Array): Uint8Array {
    const { cookie, offsetBytes } = request;
    if (!this.#structured) {
      return concatBytes([encodeNbdReplyHeader({ kind: "simple", cookie, errno: 0 }), data]);
    }
    const { shuffle } = this.#fake.options;
    const pieces = shuffle === undefined ? [data] : cut(data, shuffle);
    const chunks = pieces.map((piece) => {
      const at = offsetBytes + piece.byteOffset - data.byteOffset;
      if (shuffle !== undefined && piece.every((byte) => byte === 0)) {
        return fakeHoleChunk(cookie, at, piece.byteLength);
      }
      return fakeDataChunk(cookie, at, piece);
    });
    return concatBytes([...chunks, fakeChunk(cookie, nbdChunkType.none, new Uint8Array(0), true)]);
  }

  #statusReply(request: NbdRequest): Uint8Array {
    const { contexts } = this.#fake.options;
    const { cookie } = request;
    const chunks = this.#contexts.map((name, index) => {
      const descriptors = contexts?.[name]?.(request) ?? [];
      const isLast = index === this.#contexts.length - 1;
      const payload = encodeNbdStatus(index + 7, descriptors);
      return fakeChunk(cookie, nbdChunkType.blockStatus, payload, isLast);
    });
    return concatBytes(chunks);
  }

  #errorReply(request: NbdRequest, errno: number): Uint8Array {
    const { cookie } = request;
    if (!this.#structured) return encodeNbdReplyHeader({ kind: "simple", cookie, errno });
    const message = new TextEncoder().encode("it is broken");
    const view = new DataView(new ArrayBuffer(6));
    view.setUint32(0, errno);
    view.setUint16(4, message.byteLength);
    const payload = concatBytes([new Uint8Array(view.buffer), message]);
    return fakeChunk(cookie, nbdChunkType.error, payload, true);
  }
}

/** One reply chunk. */
export function fakeChunk(
  cookie: number,
  type: number,
  payload: Uint8Array,
  done: boolean,
): Uint8Array {
  const payloadBytes = payload.byteLength;
  const header = encodeNbdReplyHeader({ kind: "chunk", cookie, type, done, payloadBytes });
  return concatBytes([header, payload]);
}

/** A chunk of data of a read, not the last. */
export function fakeDataChunk(cookie: number, offsetBytes: number, data: Uint8Array): Uint8Array {
  const offset = new Uint8Array(8);
  setUint53(viewOf(offset), 0, offsetBytes);
  return fakeChunk(cookie, nbdChunkType.offsetData, concatBytes([offset, data]), false);
}

/** A chunk that says that part of a read is zeros, not the last. */
export function fakeHoleChunk(
  cookie: number,
  offsetBytes: number,
  lengthBytes: number,
): Uint8Array {
  const payload = new Uint8Array(12);
  setUint53(viewOf(payload), 0, offsetBytes);
  viewOf(payload).setUint32(8, lengthBytes);
  return fakeChunk(cookie, nbdChunkType.offsetHole, payload, false);
}

function cut(data: Uint8Array, prng: Prng): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  while (at < data.byteLength) {
    const end = Math.min(data.byteLength, at + 1 + prng.below(8192));
    pieces.splice(prng.below(pieces.length + 1), 0, data.subarray(at, end));
    at = end;
  }
  return pieces;
}
