/** Opens anything that holds a disk: an image file, a block device, an NBD export. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { formatNbdUri, isNbdUri, parseNbdUri, type NbdAddress } from "#drivers/nbd/nbd-address.ts";
import { openNbdClient, type NbdClient } from "#drivers/nbd/nbd-client.ts";
import type { DiskReader } from "#ports/disk.ts";
import { assertSameState, readReferenceState, type FileState } from "./file-state.ts";
import { imageInvalid, isLocalFile, readImageInfo, type ImageInfo } from "./image-info.ts";
import { toImageNode } from "./image-node.ts";
import { createNbdReader } from "./nbd-reader.ts";
import { startQemuNbd, type QemuNbd } from "./qemu-nbd.ts";
import { openRawReader, type RawReaderOptions } from "./raw-reader.ts";

/** How a disk is opened. */
export interface OpenDiskOptions {
  /**
   * QEMU's name of the image's format, for example `raw` or `qcow2`. Give it wherever it is known:
   * without it the content decides, and a guest can make its raw disk look like a qcow2 image
   * whose backing file is any file of the host.
   */
  readonly format?: string | undefined;
  /**
   * Whether several may read a device at once. The caller knows that nobody writes it; a mount of it
   * is not noticed before {@link DiskReader.assertUnchanged}. Default: no.
   */
  readonly isShared?: boolean | undefined;
  /** What opens its encrypted layers. */
  readonly passphrase?: Uint8Array | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens the disk at `target`, a path or an NBD URI.
 *
 * Raw images and block devices are read directly. Every other format is read by a qemu-nbd of our
 * own, which holds QEMU's locks: no VM can write the image meanwhile. An NBD server is trusted to
 * serve one instant; {@link DiskReader.assertUnchanged} cannot check that.
 *
 * Errors: ImageNotFound, ImageInvalid, ImageInUse, ImageChangedDuringRead, DiskKeyUnusable (all
 * after-change), ToolMissing, Nbd*.
 */
export async function openDiskImage(
  target: string,
  options: OpenDiskOptions = {},
): Promise<DiskReader> {
  if (isNbdUri(target)) return openNbdDisk(target, { signal: options.signal });
  const { reader } = await openLocalImage(target, options);
  return reader;
}

/** An image of this host, and what it is read from. */
export interface LocalImage {
  readonly reader: DiskReader;
  readonly info: ImageInfo;
  /** State at opening of each layer; absent for layers that are no local files. */
  readonly states: readonly (FileState | undefined)[];
}

/** Opens the image at a path; otherwise as {@link openDiskImage}. */
export async function openLocalImage(
  path: string,
  options: OpenDiskOptions = {},
): Promise<LocalImage> {
  const { format, isShared, signal } = options;
  const info = await readImageInfo(path, { format, signal });
  if (isRawAlone(info)) return await openRawImage(info, { isShared });
  return await openByQemuNbd(info, await readLayerStates(info), options);
}

/**
 * Opens an image that was looked at before; otherwise as {@link openDiskImage}.
 *
 * @param states Of {@link readLayerStates}, where another process of the caller reads the image as well
 *   and was started after them: ImageChangedDuringRead unless both read the same files.
 */
export async function openKnownImage(
  info: ImageInfo,
  signal?: AbortSignal,
  states?: readonly (FileState | undefined)[],
): Promise<LocalImage> {
  if (isRawAlone(info)) return await openRawImage(info);
  return openByQemuNbd(info, states ?? (await readLayerStates(info)), { signal });
}

function isRawAlone(info: ImageInfo): boolean {
  return info.format === "raw" && info.layers.length === 1;
}

async function openRawImage(info: ImageInfo, options: RawReaderOptions = {}): Promise<LocalImage> {
  const { reader, state } = await openRawReader(info, options);
  return { reader, info, states: [state] };
}

/** What to compare the layers of an image with later; errors of `readReferenceState`. */
export async function readLayerStates(
  info: ImageInfo,
): Promise<readonly (FileState | undefined)[]> {
  return await Promise.all(
    info.layers.map(async (layer) =>
      isLocalFile(layer) ? await readReferenceState(layer.file) : undefined,
    ),
  );
}

/** How an export is opened. */
export interface OpenNbdOptions {
  /** Contexts beside `base:allocation`; NbdUnsupported where the server lacks one. */
  readonly metaContexts?: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

/** Opens an export of an NBD server; errors as of `openNbdClient`, and ImageInvalid for odd sizes. */
export async function openNbdDisk(
  target: string | NbdAddress,
  options: OpenNbdOptions = {},
): Promise<DiskReader & { readonly client: NbdClient }> {
  const address = typeof target === "string" ? parseNbdUri(target) : target;
  const wanted = options.metaContexts ?? [];
  const client = await openNbdClient(address, {
    metaContexts: ["base:allocation", ...wanted],
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  try {
    assertUsable(client, formatNbdUri(address), wanted);
  } catch (error) {
    await client[Symbol.asyncDispose]();
    throw error;
  }
  const reader = createNbdReader({
    client,
    assertUnchanged: async () => {
      // Whoever runs the server answers for that.
    },
    close: () => client[Symbol.asyncDispose](),
  });
  return { ...reader, client };
}

function assertUsable(client: NbdClient, uri: string, wanted: readonly string[]): void {
  const { metaContexts, sizeBytes } = client.info;
  if (sizeBytes === 0 || sizeBytes % 512 !== 0) {
    throw imageInvalid(uri, `its size ${String(sizeBytes)} is no multiple of 512, or is 0`);
  }
  const missing = wanted.find((name) => !metaContexts.some((context) => context.name === name));
  if (missing === undefined) return;
  throw new KluisError("NbdUnsupported", `Cannot use "${uri}": the server has no "${missing}"`);
}

async function openByQemuNbd(
  info: ImageInfo,
  states: readonly (FileState | undefined)[],
  { passphrase, signal }: Pick<OpenDiskOptions, "passphrase" | "signal">,
): Promise<LocalImage> {
  const { path, format } = info;
  const node = toImageNode(info, { withBacking: true, isKeyed: passphrase !== undefined });
  const server = await startQemuNbd({ path, format, node, passphrase, signal });
  const assertUnchanged = async (): Promise<void> => {
    for (const [index, state] of states.entries()) {
      if (state !== undefined) await assertSameState(info.layers[index]?.file ?? "", state);
    }
  };
  try {
    // Taken before the process opened the files: a name that changed hands in between shows here.
    await assertUnchanged();
    const reader = createNbdReader({
      client: server.client,
      translate: (error) => toReadError(info.path, error, server),
      assertUnchanged,
      close: async () => {
        await server[Symbol.asyncDispose]();
      },
    });
    return { reader, info, states };
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

/** Names the image instead of the socket between us and our qemu-nbd. */
async function toReadError(path: string, error: unknown, server: QemuNbd): Promise<unknown> {
  const what = `Cannot read image "${path}"`;
  if (isKluisError(error, "NbdUnavailable")) {
    const reason = (await server.failure()) ?? error.message;
    return new KluisError("DiskReadFailed", `${what}: ${reason}`, { cause: error });
  }
  if (!isKluisError(error, "DiskReadFailed")) return error;
  const { details } = error;
  const { offsetBytes, reason } = details;
  const message = `${what} at ${String(offsetBytes)}: ${String(reason)}`;
  return new KluisError("DiskReadFailed", message, { details, cause: error });
}
