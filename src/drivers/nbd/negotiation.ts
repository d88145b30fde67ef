/** The client's side of the handshake: options, and what the server says about an export. */
import { KluisError } from "#base/kluis-error.ts";
import {
  encodeNbdClientFlags,
  encodeNbdInfoRequest,
  encodeNbdMetaContextRequest,
  encodeNbdOption,
  nbdExportFlag,
  nbdOption,
  nbdOptionReply,
  NBD_GREETING_BYTES,
  NBD_OPTION_REPLIES_MAX,
  NBD_OPTION_REPLY_HEADER_BYTES,
  parseNbdGreeting,
  parseNbdInfo,
  parseNbdMetaContext,
  parseNbdOptionReplyHeader,
  parseNbdServer,
  type NbdBlockSizes,
  type NbdMetaContext,
  type NbdOption,
} from "#formats/nbd-handshake.ts";
import { nbdProtocolError, printable } from "#formats/nbd-wire.ts";
import { NBD_META_CONTEXTS_MAX } from "./limits.ts";

/** The two directions of a connection during the handshake. */
export interface HandshakeChannel {
  /** Exactly that many bytes; rejects when the server hangs up before. */
  read(lengthBytes: number): Promise<Uint8Array>;
  write(bytes: Uint8Array): void;
}

/** What a server offers for one export. */
export interface NbdExport {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly blockSizes: NbdBlockSizes;
  readonly structuredReplies: boolean;
  /** The contexts that were asked for and that the server has, in the order asked. */
  readonly metaContexts: readonly NbdMetaContext[];
}

/** What a server without the information must be taken to mean (specification, "Block size"). */
const DEFAULT_BLOCK_SIZES: NbdBlockSizes = {
  minBytes: 512,
  preferredBytes: 4096,
  maxBytes: 32 * 1024 * 1024,
};

/** Starts the handshake: greeting and flags. */
export async function greet(channel: HandshakeChannel): Promise<void> {
  const greeting = parseNbdGreeting(await channel.read(NBD_GREETING_BYTES));
  channel.write(encodeNbdClientFlags(greeting));
}

/**
 * Selects an export and its meta contexts and enters the transmission phase.
 *
 * Errors: ImageNotFound (no such export), NbdUnsupported, NbdUnavailable, NbdProtocol.
 */
export async function negotiateExport(
  channel: HandshakeChannel,
  exportName: string,
  contextNames: readonly string[],
): Promise<NbdExport> {
  await greet(channel);
  const structuredReplies = await negotiateStructuredReplies(channel);
  const metaContexts = structuredReplies
    ? await selectMetaContexts(channel, exportName, contextNames)
    : [];
  let info: { readonly sizeBytes: number; readonly flags: number } | undefined;
  let blockSizes: NbdBlockSizes | undefined;
  const data = encodeNbdInfoRequest(exportName);
  const failure = await negotiate(channel, nbdOption.go, data, (type, payload) => {
    if (type !== nbdOptionReply.info) throw unexpectedReply(type);
    const reply = parseNbdInfo(payload);
    if (reply.kind === "export") info = reply;
    else if (reply.kind === "block-sizes") blockSizes = reply.sizes;
  });
  if (failure !== undefined) throw toExportError(failure, exportName);
  if (info === undefined) throw nbdProtocolError("it does not tell the size of the export");
  return toExport(info, { blockSizes, structuredReplies, metaContexts });
}

/** Names of the exports that a server tells, in its order. */
export async function listExports(channel: HandshakeChannel): Promise<readonly string[]> {
  await greet(channel);
  const names: string[] = [];
  const failure = await negotiate(channel, nbdOption.list, new Uint8Array(0), (type, payload) => {
    if (type !== nbdOptionReply.server) throw unexpectedReply(type);
    names.push(parseNbdServer(payload));
  });
  if (failure !== undefined) throw toExportError(failure, "");
  leave(channel);
  return names;
}

/** Names of the meta contexts of an export that match a query, for example `qemu:dirty-bitmap:`. */
export async function listMetaContexts(
  channel: HandshakeChannel,
  exportName: string,
  queries: readonly string[],
): Promise<readonly string[]> {
  await greet(channel);
  if (!(await negotiateStructuredReplies(channel))) return [];
  const names: string[] = [];
  const data = encodeNbdMetaContextRequest(exportName, queries);
  const failure = await negotiate(channel, nbdOption.listMetaContext, data, (type, payload) => {
    if (type !== nbdOptionReply.metaContext) throw unexpectedReply(type);
    names.push(parseNbdMetaContext(payload).name);
  });
  if (failure !== undefined) throw toExportError(failure, exportName);
  leave(channel);
  return names;
}

/** Ends a handshake that wants no export; the server may hang up before its answer arrives. */
function leave(channel: HandshakeChannel): void {
  channel.write(encodeNbdOption(nbdOption.abort, new Uint8Array(0)));
}

async function negotiateStructuredReplies(channel: HandshakeChannel): Promise<boolean> {
  const failure = await negotiate(channel, nbdOption.structuredReply, new Uint8Array(0), (type) => {
    throw unexpectedReply(type);
  });
  return failure === undefined;
}

async function selectMetaContexts(
  channel: HandshakeChannel,
  exportName: string,
  names: readonly string[],
): Promise<readonly NbdMetaContext[]> {
  if (names.length === 0) return [];
  if (names.length > NBD_META_CONTEXTS_MAX) {
    throw new KluisError("ArgumentInvalid", "Cannot ask for so many meta contexts at once");
  }
  const selected = new Map<string, number>();
  const data = encodeNbdMetaContextRequest(exportName, names);
  const failure = await negotiate(channel, nbdOption.setMetaContext, data, (type, payload) => {
    if (type !== nbdOptionReply.metaContext) throw unexpectedReply(type);
    const { id, name } = parseNbdMetaContext(payload);
    const isNew = !selected.has(name) && ![...selected.values()].includes(id);
    if (!names.includes(name) || !isNew) {
      throw nbdProtocolError(`it selects the meta context "${name}", which is not wanted`);
    }
    selected.set(name, id);
  });
  if (failure?.type === nbdOptionReply.errorUnsupported) return [];
  if (failure !== undefined) throw toExportError(failure, exportName);
  return names.flatMap((name) => {
    const id = selected.get(name);
    return id === undefined ? [] : [{ id, name }];
  });
}

interface OptionFailure {
  readonly type: number;
  readonly message: string;
}

/** Sends one option and hands on its replies until the last; returns an error reply. */
async function negotiate(
  channel: HandshakeChannel,
  option: NbdOption,
  data: Uint8Array,
  onReply: (type: number, payload: Uint8Array) => void,
): Promise<OptionFailure | undefined> {
  channel.write(encodeNbdOption(option, data));
  for (let count = 0; count < NBD_OPTION_REPLIES_MAX; count++) {
    const header = parseNbdOptionReplyHeader(await channel.read(NBD_OPTION_REPLY_HEADER_BYTES));
    if (header.option !== option) throw nbdProtocolError("it answers an option that was not sent");
    const payload = await channel.read(header.payloadBytes);
    if (header.type === nbdOptionReply.ack) return undefined;
    if (header.type >= 2 ** 31) return { type: header.type, message: printable(payload) };
    onReply(header.type, payload);
  }
  throw nbdProtocolError(`it sends more than ${String(NBD_OPTION_REPLIES_MAX)} replies`);
}

function toExport(
  info: { readonly sizeBytes: number; readonly flags: number },
  rest: {
    readonly blockSizes: NbdBlockSizes | undefined;
    readonly structuredReplies: boolean;
    readonly metaContexts: readonly NbdMetaContext[];
  },
): NbdExport {
  const { sizeBytes, flags } = info;
  const blockSizes = rest.blockSizes ?? DEFAULT_BLOCK_SIZES;
  if (sizeBytes % blockSizes.minBytes !== 0) {
    const { minBytes } = blockSizes;
    throw nbdProtocolError(`its size ${String(sizeBytes)} is no multiple of ${String(minBytes)}`);
  }
  const has = (flag: number): boolean =>
    (flags & nbdExportFlag.hasFlags) !== 0 && (flags & flag) !== 0;
  return {
    sizeBytes,
    readOnly: has(nbdExportFlag.readOnly),
    canFlush: has(nbdExportFlag.sendFlush),
    canTrim: has(nbdExportFlag.sendTrim),
    canWriteZeroes: has(nbdExportFlag.sendWriteZeroes),
    blockSizes,
    structuredReplies: rest.structuredReplies,
    metaContexts: rest.metaContexts,
  };
}

function toExportError(failure: OptionFailure, exportName: string): KluisError {
  const said = failure.message === "" ? "" : ` (${failure.message})`;
  const what = `Cannot open the NBD export "${exportName}"`;
  switch (failure.type) {
    case nbdOptionReply.errorUnknown:
      return new KluisError("ImageNotFound", `${what}: the server has none of that name${said}`);
    case nbdOptionReply.errorTlsRequired:
      return new KluisError("NbdUnsupported", `${what}: the server requires TLS${said}`);
    case nbdOptionReply.errorShutdown:
      return new KluisError("NbdUnavailable", `${what}: the server is shutting down${said}`);
    default: {
      const type = `error ${String(failure.type - 2 ** 31)}`;
      return new KluisError("NbdUnsupported", `${what}: the server refuses with ${type}${said}`);
    }
  }
}

function unexpectedReply(type: number): KluisError {
  return nbdProtocolError(`it answers an option with reply ${String(type)}`);
}
