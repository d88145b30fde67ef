/** Writes targets behind NBD: a new qcow2 file by a qemu-nbd of our own, or an export in place. */
import { chmod } from "node:fs/promises";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { openNbdClient, type NbdClient } from "#drivers/nbd/nbd-client.ts";
import { lastLine, runTool } from "#drivers/process/run-tool.ts";
import type { DiskWriter } from "#ports/disk.ts";
import { readImageInfo } from "./image-info.ts";
import { imageKeyId, runMeasured, withImageKey } from "./image-key.ts";
import { toImageNode } from "./image-node.ts";
import { startQemuNbd, type QemuNbd } from "./qemu-nbd.ts";
import type { RawTargetOptions } from "./raw-writer.ts";
import { TargetFile, targetExists, targetTooSmall, toTargetError } from "./target-file.ts";
import { FreshTargetWriter, type WriterActions } from "./writer-state.ts";

/** How long qemu-img may take to make an empty image. */
const CREATE_TIMEOUT_MS = 60_000;
/** Zeros are written in pieces of this size where the server has no command for them. */
const ZERO_PIECE_BYTES = 1024 * 1024;
/** What is written has borders of this size, apart from the end of the disk. */
const WRITE_ALIGN_BYTES = 4096;

const zeros = new Uint8Array(ZERO_PIECE_BYTES);

/** A file that a qemu-nbd writes. */
export interface ImageTargetOptions extends RawTargetOptions {
  /** Seals the image by LUKS; one that is not qcow2 always is. */
  readonly passphrase?: Uint8Array;
}

/**
 * Makes a qcow2 file, not preallocated, readable by its owner only, under a temporary name until
 * commit.
 *
 * Errors: TargetExists, TargetNoSpace (after-change), TargetWriteFailed (backoff), ToolMissing.
 */
export function createQcow2File(options: ImageTargetOptions): Promise<DiskWriter> {
  return createImageFile("qcow2", options);
}

/**
 * Makes a LUKS file; otherwise as {@link createQcow2File}. What was never written is no zero there, so
 * all of it is written.
 */
export function createLuksFile(
  options: ImageTargetOptions & { readonly passphrase: Uint8Array },
): Promise<DiskWriter> {
  return createImageFile("luks", options);
}

async function createImageFile(
  format: "qcow2" | "luks",
  options: ImageTargetOptions,
): Promise<DiskWriter> {
  const { path, sizeBytes } = options;
  const target = await TargetFile.plan(path, options.overwrite);
  let server: QemuNbd;
  try {
    await createEmptyImage(target, format, options);
    await chmod(target.tempPath, 0o600);
    server = await openForWriting(target.tempPath, format, options);
  } catch (error) {
    await target.remove();
    throw toTargetError(path, error);
  }
  const { client } = server;
  const actions = actionsOf(client, (error) => toFileError(path, error, server));
  if (format === "luks") {
    try {
      await actions.overwriteWithZeros(0, sizeBytes);
    } catch (error) {
      await server[Symbol.asyncDispose]();
      await target.remove();
      throw error;
    }
  }
  return new FreshTargetWriter(sizeBytes, {
    ...actions,
    commit: async () => {
      try {
        await client.flush();
        await server.finish();
      } catch (error) {
        throw await toFileError(path, error, server);
      }
      await target.commit();
    },
    close: async () => {
      await server[Symbol.asyncDispose]();
      await target.remove();
    },
  });
}

/**
 * Opens an export to be written in place, and fills it with zeros first. What lies behind
 * `sizeBytes` on a larger export stays.
 *
 * Errors: TargetExists, TargetTooSmall (after-change), TargetWriteFailed (backoff), Nbd*.
 */
export async function openExportTarget(options: RawTargetOptions): Promise<DiskWriter> {
  const { path: uri, signal, sizeBytes } = options;
  if (!options.overwrite) throw targetExists(uri);
  const client = await openNbdClient(uri, signal === undefined ? {} : { signal });
  const actions = actionsOf(client, (error) => Promise.resolve(error));
  try {
    const haveBytes = client.info.sizeBytes;
    if (haveBytes < sizeBytes) throw targetTooSmall(uri, { haveBytes, needBytes: sizeBytes });
    const { minBytes } = client.info.blockSizes;
    if (minBytes > WRITE_ALIGN_BYTES || sizeBytes % minBytes !== 0) {
      const lack = `its smallest block of ${String(minBytes)} bytes does not suit the disk`;
      throw new KluisError("NbdUnsupported", `Cannot write "${uri}": ${lack}`);
    }
    await actions.overwriteWithZeros(0, sizeBytes);
  } catch (error) {
    await client[Symbol.asyncDispose]();
    throw error;
  }
  return new FreshTargetWriter(sizeBytes, {
    ...actions,
    commit: () => client.flush(),
    close: () => client[Symbol.asyncDispose](),
  });
}

function actionsOf(
  client: NbdClient,
  translate: (error: unknown) => Promise<unknown>,
): Pick<WriterActions, "write" | "overwriteWithZeros"> {
  async function translated(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw await translate(error);
    }
  }
  return {
    write: (offsetBytes, bytes) => translated(() => client.write(offsetBytes, bytes)),
    overwriteWithZeros: (offsetBytes, lengthBytes) =>
      translated(async () => {
        if (client.info.canWriteZeroes) {
          await client.writeZeroes({ offsetBytes, lengthBytes });
          return;
        }
        for (let at = 0; at < lengthBytes; at += ZERO_PIECE_BYTES) {
          const piece = zeros.subarray(0, Math.min(ZERO_PIECE_BYTES, lengthBytes - at));
          await client.write(offsetBytes + at, piece);
        }
      }),
  };
}

/** What seals a new image under the passphrase of {@link imageKeyId}. */
function sealOptions(
  format: "qcow2" | "luks",
  passphrase: Uint8Array | undefined,
): readonly string[] {
  if (passphrase === undefined) return [];
  if (format === "luks") return [`key-secret=${imageKeyId}`];
  return ["encrypt.format=luks", `encrypt.key-secret=${imageKeyId}`];
}

/** Names the file instead of the socket between us and our qemu-nbd. */
async function toFileError(path: string, error: unknown, server: QemuNbd): Promise<unknown> {
  if (isKluisError(error, "NbdUnavailable")) {
    const reason = (await server.failure()) ?? error.message;
    return new KluisError("TargetWriteFailed", `Cannot write "${path}": ${reason}`, {
      cause: error,
    });
  }
  if (!isKluisError(error) || error.details["reason"] === undefined) return error;
  const { code, details } = error;
  const reason = code === "TargetNoSpace" ? "no space is left" : String(details["reason"]);
  const message = `Cannot write "${path}": ${reason}`;
  return new KluisError(code, message, { details, cause: error });
}

async function openForWriting(
  path: string,
  format: "qcow2" | "luks",
  { passphrase, signal }: ImageTargetOptions,
): Promise<QemuNbd> {
  const place = { path, format, writable: true, signal };
  if (passphrase === undefined) return await startQemuNbd(place);
  const info = await readImageInfo(path, { format, signal });
  const node = toImageNode(info, { withBacking: false, isKeyed: true });
  return await startQemuNbd({ ...place, node, passphrase });
}

async function createEmptyImage(
  target: TargetFile,
  format: "qcow2" | "luks",
  { sizeBytes, passphrase }: ImageTargetOptions,
): Promise<void> {
  const layout = ["preallocation=off", ...sealOptions(format, passphrase)].join(",");
  const result = await withImageKey(passphrase, async (key) => {
    const args = ["create", "-q", ...key.args, "-f", format, "-o", layout, "--", target.tempPath];
    const options = { timeoutMs: CREATE_TIMEOUT_MS, ...key.options };
    return await runMeasured(() => runTool("qemu-img", [...args, String(sizeBytes)], options));
  });
  if (result.exitCode === 0) return;
  const isFull = /No space left|quota exceeded/i.test(result.stderr);
  // QEMU's message repeats the temporary path; what counts is behind the last colon.
  const reason = lastLine(result.stderr)?.split(": ").at(-1) ?? "qemu-img says nothing";
  const code = isFull ? "TargetNoSpace" : "TargetWriteFailed";
  throw new KluisError(code, `Cannot write "${target.path}": ${reason}`);
}
