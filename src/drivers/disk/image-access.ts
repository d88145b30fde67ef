/** Images, devices and exports of this host behind the port of sources and targets. */
import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";

import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { isNbdUri } from "#drivers/nbd/nbd-address.ts";
import { openNbdClient } from "#drivers/nbd/nbd-client.ts";
import type { ChangedExtents, DiskWriter } from "#ports/disk.ts";
import type {
  ImageAccess,
  SourceBacking,
  SourceImage,
  SourceImageOptions,
  TargetInfo,
  TargetRequest,
} from "#ports/source-image.ts";
import type { FileState } from "./file-state.ts";
import {
  type ImageInfo,
  type ImageLayer,
  isLocalFile,
  readImageInfo,
  readLayerInfo,
} from "./image-info.ts";
import { createLuksFile, createQcow2File, openExportTarget } from "./nbd-writer.ts";
import {
  openKnownImage,
  openNbdDisk,
  readLayerStates,
  type LocalImage,
} from "./open-disk-image.ts";
import { collectOverlay, startOverlayServer } from "./overlay-extents.ts";
import type { QemuNbd } from "./qemu-nbd.ts";
import { createRawFile, openDeviceTarget } from "./raw-writer.ts";
import { collectChanges } from "./status-changes.ts";
import { targetExists, toTargetError } from "./target-file.ts";

/** See {@link ImageAccess}. */
export const imageAccess: ImageAccess = {
  isUri: isNbdUri,
  openSource,
  inspectTarget,
  createTarget,
};

async function openSource(
  place: string,
  options: SourceImageOptions,
  signal?: AbortSignal,
): Promise<SourceImage> {
  if (isNbdUri(place)) return openExport(place, options.bitmap, signal);
  if (options.bitmap !== undefined) {
    throw new KluisError("ArgumentInvalid", `Cannot use a bitmap of "${place}": it is no NBD URI`);
  }
  const info = await readImageInfo(place, { format: options.format, signal });
  await using owned = new AsyncDisposableStack();
  const states = hasBacking(info) ? await readLayerStates(info) : undefined;
  // Begun beside the process that reads the image: who opens an overlay asks for its changes next.
  const overlay = states === undefined ? undefined : owned.use(new OverlayServer(info, signal));
  const image = await openKnownImage(info, signal, states);
  owned.use(image.reader);
  const ending = owned.move();
  return {
    reader: image.reader,
    identity: identityOf(image.info.layers, image.states),
    ...(overlay === undefined ? {} : { backing: toBacking(image, overlay) }),
    [Symbol.asyncDispose]: () => ending.disposeAsync(),
  };
}

/** Whether the image is an overlay on a file or device of this host. */
function hasBacking({ format, layers }: ImageInfo): boolean {
  const below = layers[1];
  return format === "qcow2" && below !== undefined && isLocalFile(below);
}

function toBacking(image: LocalImage, overlay: OverlayServer): SourceBacking {
  const { layers } = image.info;
  return {
    identity: identityOf(layers.slice(1), image.states.slice(1)),
    open: async (signal) => {
      const { reader } = await openKnownImage(await readLayerInfo(image.info, 1), signal);
      return reader;
    },
    changes: (signal) => overlay.readExtents(signal),
  };
}

/** The process that tells what an overlay holds of its own, started ahead and ended when it has told it. */
class OverlayServer implements AsyncDisposable {
  readonly #info: ImageInfo;
  #ahead: Promise<QemuNbd> | undefined;
  readonly #ending: Promise<void>[] = [];

  constructor(info: ImageInfo, signal: AbortSignal | undefined) {
    this.#info = info;
    this.#ahead = startOverlayServer(info, { signal });
    // Started again for who asks for the changes.
    this.#ahead.catch(() => undefined);
  }

  async readExtents(signal: AbortSignal | undefined): Promise<ChangedExtents> {
    // One that could not start ahead may do so now; if not, it says why.
    const ahead = await this.#takeAhead()?.catch(() => undefined);
    const server = ahead ?? (await startOverlayServer(this.#info, { signal }));
    try {
      const { extents } = await collectOverlay(server, signal);
      return extents;
    } finally {
      this.#end(server);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const [started] = await Promise.allSettled([this.#takeAhead()]);
    if (started.status === "fulfilled" && started.value !== undefined) this.#end(started.value);
    await Promise.all(this.#ending);
  }

  #takeAhead(): Promise<QemuNbd> | undefined {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    return ahead;
  }

  /** Lets the process end, for which nobody waits (10 to 30 ms) before the image is closed. */
  #end(server: QemuNbd): void {
    const ending = Promise.resolve(server[Symbol.asyncDispose]());
    // Told by the disposal.
    ending.catch(() => undefined);
    this.#ending.push(ending);
  }
}

async function openExport(
  uri: string,
  bitmap: string | undefined,
  signal: AbortSignal | undefined,
): Promise<SourceImage> {
  const context = `qemu:dirty-bitmap:${bitmap ?? ""}`;
  const metaContexts = bitmap === undefined ? [] : [context];
  const reader = await openNbdDisk(uri, { metaContexts, signal });
  const isChanged = (flags: number): boolean => (flags & 1) !== 0;
  return {
    reader,
    identity: uniqueIdentity(),
    ...(bitmap === undefined
      ? {}
      : {
          bitmap: {
            name: bitmap,
            changes: (signal) => collectChanges(reader.client, { context, isChanged }, signal),
          },
        }),
    [Symbol.asyncDispose]: async () => {
      await reader[Symbol.asyncDispose]();
    },
  };
}

/**
 * A name of the content: equal only while every layer is the same file, unwritten. Layers that are
 * no files, and devices (whose times say nothing), give a name that no other content ever has.
 */
function identityOf(
  layers: readonly ImageLayer[],
  states: readonly (FileState | undefined)[],
): string {
  const hash = createHash("sha256");
  for (const [index, { file, format }] of layers.entries()) {
    const state = states[index];
    if (state === undefined || state.isDevice) return uniqueIdentity();
    // Not the device number, which may be another after a restart of the host.
    const { changedNs, inode, modifiedNs, sizeBytes } = state;
    const numbers = [inode, sizeBytes, modifiedNs, changedNs].map(String);
    hash.update(`${JSON.stringify([file, format, ...numbers])}\n`);
  }
  return `files-sha256:${hash.digest("hex")}`;
}

function uniqueIdentity(): string {
  return `unique:${toHex(systemRandom.bytes(16))}`;
}

async function inspectTarget(place: string, signal?: AbortSignal): Promise<TargetInfo> {
  if (isNbdUri(place)) {
    await using client = await openNbdClient(place, signal === undefined ? {} : { signal });
    return { kind: "export", sizeBytes: client.info.sizeBytes };
  }
  try {
    const stats = await stat(place);
    if (!stats.isBlockDevice()) return { kind: "file" };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { kind: "absent" };
    throw toTargetError(place, error);
  }
  const { sizeBytes } = await readImageInfo(place, { format: "raw", signal });
  return { kind: "device", sizeBytes };
}

async function createTarget(request: TargetRequest, signal?: AbortSignal): Promise<DiskWriter> {
  const { format, overwrite, place, sizeBytes, passphrase } = request;
  const { kind, sizeBytes: haveBytes } = await inspectTarget(place, signal);
  const options = { path: place, sizeBytes, overwrite, signal };
  if (kind === "absent" || kind === "file") {
    if (passphrase === undefined) {
      return format === "raw" ? createRawFile(options) : createQcow2File(options);
    }
    const sealed = { ...options, passphrase };
    return format === "raw" ? createLuksFile(sealed) : createQcow2File(sealed);
  }
  if (passphrase !== undefined) {
    throw new KluisError("ArgumentInvalid", `Cannot write "${place}": ${kind}s are not encrypted`);
  }
  if (format !== "raw") {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot write "${place}": ${kind}s take raw disks only`,
    );
  }
  if (!overwrite) throw targetExists(place);
  if (kind === "export") return openExportTarget(options);
  return openDeviceTarget({ ...options, deviceBytes: haveBytes ?? 0 });
}
