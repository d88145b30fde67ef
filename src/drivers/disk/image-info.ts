/** What qemu-img tells of an image, and what it means when it refuses. */
import { realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";

import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { lastLine, runTool } from "#drivers/process/run-tool.ts";
import { isKeyRefusal, keyRefused } from "./image-key.ts";

/** How long qemu-img may look at an image. */
const IMAGE_INFO_TIMEOUT_MS = 60_000;
/** Most layers of one image. */
const IMAGE_LAYERS_MAX = 1024;

/** What an image is. */
export interface ImageInfo {
  /** Absolute, without symbolic links. */
  readonly path: string;
  /** Name of QEMU's driver: `raw`, `qcow2`, `vmdk` … */
  readonly format: string;
  /** What a VM sees; a multiple of 512. */
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
  /** The image itself and what lies below it, in order. */
  readonly layers: readonly ImageLayer[];
}

/** One layer of an image. */
export interface ImageLayer {
  /** An absolute path; or what else QEMU calls it (`json:…`, `nbd://…`), see {@link isLocalFile}. */
  readonly file: string;
  readonly format: string;
  /** What a VM sees of it. */
  readonly sizeBytes: number;
  /** QEMU's driver below the format: `file` or `host_device`; absent for anything else. */
  readonly protocol?: "file" | "host_device";
  /** Size of a cluster, for formats that have them. */
  readonly clusterBytes?: number;
  /** Whether its content is sealed under a passphrase. Default: no. */
  readonly isEncrypted?: boolean;
}

/** Whether a layer is a file or device of this host by its path. */
export function isLocalFile(layer: ImageLayer): boolean {
  return layer.file.startsWith("/");
}

/** How an image is looked at. */
export interface ImageInfoOptions {
  /** QEMU's name of the format; told from the content where it is not given. */
  readonly format?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Looks at the image at `path`.
 *
 * Errors: ImageNotFound, ImageInvalid, ImageInUse (all after-change), ToolMissing, ToolFailed.
 */
export async function readImageInfo(
  path: string,
  options: ImageInfoOptions = {},
): Promise<ImageInfo> {
  const place = await findImage(path);
  const format = options.format === undefined ? [] : ["-f", options.format];
  const args = ["info", "--output=json", "--backing-chain", ...format, "--", place.path];
  const result = await runTool("qemu-img", args, {
    timeoutMs: IMAGE_INFO_TIMEOUT_MS,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  if (result.exitCode !== 0) throw toImageError(path, result.stderr);
  const layers = parseLayers(path, result.stdout);
  return await describeImage(path, place, layers);
}

/** The image that a layer of another one is, without asking qemu-img again; errors as {@link readImageInfo}. */
export async function readLayerInfo(image: ImageInfo, at: number): Promise<ImageInfo> {
  const layers = image.layers.slice(at);
  const { file } = present(layers[0], "an image has that layer");
  return await describeImage(file, await findImage(file), layers);
}

async function describeImage(
  path: string,
  place: Pick<ImageInfo, "path" | "isBlockDevice">,
  layers: readonly ImageLayer[],
): Promise<ImageInfo> {
  const [top] = layers;
  if (top === undefined) throw imageInvalid(path, "qemu-img tells nothing about it");
  const { format, sizeBytes } = top;
  if (sizeBytes === 0) throw imageInvalid(path, "it is empty");
  if (sizeBytes % 512 !== 0) {
    throw imageInvalid(path, `its size ${String(sizeBytes)} is no multiple of 512`);
  }
  const own = { ...top, file: place.path };
  const below = await Promise.all([own, ...layers.slice(1)].map(withProtocol));
  return { ...place, format, sizeBytes, layers: below };
}

/** The error that a message of QEMU's tools about the image at `path` means. */
export function toImageError(path: string, stderr: string): KluisError {
  if (/Failed to get .*lock|another process using the image/i.test(stderr)) {
    return new KluisError(
      "ImageInUse",
      `Cannot open image "${path}": another program has it open for writing`,
    );
  }
  if (isKeyRefusal(stderr)) return keyRefused(path);
  // The last line may be a hint; the first one says what is wrong.
  const first = stderr.trim().split("\n")[0] ?? "";
  const reason = first.replace(/^qemu-[a-z]+: /, "") || (lastLine(stderr) ?? "QEMU says nothing");
  return imageInvalid(path, reason);
}

/** The error of a file that is no usable image. */
export function imageInvalid(path: string, reason: string): KluisError {
  return new KluisError("ImageInvalid", `Cannot use image "${path}": ${reason}`);
}

async function findImage(path: string): Promise<Pick<ImageInfo, "path" | "isBlockDevice">> {
  // Absolute, so that QEMU takes no part of it for a protocol (`nbd:…`, `json:…`).
  let absolute: string;
  try {
    absolute = await realpath(resolve(path));
    const stats = await stat(absolute);
    if (stats.isFile() || stats.isBlockDevice()) {
      return { path: absolute, isBlockDevice: stats.isBlockDevice() };
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw imageInvalid(path, message);
    throw new KluisError("ImageNotFound", `Cannot open image "${path}": there is no such file`);
  }
  throw imageInvalid(path, "it is neither a file nor a block device");
}

async function withProtocol(layer: ImageLayer): Promise<ImageLayer> {
  if (!isLocalFile(layer)) return layer;
  const stats = await stat(layer.file);
  if (stats.isFile()) return { ...layer, protocol: "file" };
  return stats.isBlockDevice() ? { ...layer, protocol: "host_device" } : layer;
}

function parseLayers(path: string, json: string): readonly ImageLayer[] {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw imageInvalid(path, "qemu-img answers without JSON");
  }
  if (!Array.isArray(value) || value.length > IMAGE_LAYERS_MAX) {
    throw imageInvalid(path, "qemu-img names no layers or too many");
  }
  return value.map((layer: unknown) => parseLayer(path, layer));
}

function parseLayer(path: string, value: unknown): ImageLayer {
  const layer = (value ?? {}) as Readonly<Record<string, unknown>>;
  const { filename: file, format } = layer;
  const sizeBytes = layer["virtual-size"];
  const isSize = typeof sizeBytes === "number" && Number.isSafeInteger(sizeBytes) && sizeBytes >= 0;
  if (typeof file !== "string" || typeof format !== "string" || !isSize) {
    throw imageInvalid(path, "qemu-img leaves out a field");
  }
  const clusterBytes = layer["cluster-size"];
  return {
    file,
    format,
    sizeBytes,
    ...(typeof clusterBytes === "number" ? { clusterBytes } : {}),
    ...(layer["encrypted"] === true ? { isEncrypted: true } : {}),
  };
}
