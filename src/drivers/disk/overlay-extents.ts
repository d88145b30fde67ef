/** What a guest changed while an overlay was the top layer of its disk. */
import { KluisError } from "#base/kluis-error.ts";
import type { ChangedExtents } from "#ports/disk.ts";
import { collectChanges } from "./status-changes.ts";
import { type ImageInfo, readImageInfo } from "./image-info.ts";
import { toImageNode } from "./image-node.ts";
import { type QemuNbd, startQemuNbd } from "./qemu-nbd.ts";

/** How many layers down what is read lies. */
const DEPTH_CONTEXT = "qemu:allocation-depth";
/** Its value for what the top layer itself holds. */
const DEPTH_LOCAL = 1;

/** How an overlay is opened. */
export interface OverlayOptions {
  /** Where it is encrypted. */
  readonly passphrase?: Uint8Array | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What an overlay holds of its own. */
export interface OverlayChanges {
  readonly sizeBytes: number;
  readonly extents: ChangedExtents;
}

/**
 * The extents that the qcow2 overlay at `path` holds of its own, whatever lies below it: what was
 * written is `data`, what was discarded or written with zeros is `zero`. The overlay must be
 * frozen (no process writes it); an active one is refused with ImageInUse by QEMU's lock.
 *
 * As fine as the overlay: 4 KiB where it was made with `extended_l2=on,cluster_size=128k`. Where
 * the overlay is larger than its backing file, the new part is not named unless it was written; it
 * reads as zeros.
 *
 * Errors: ImageNotFound, ImageInvalid, ImageInUse, DiskKeyUnusable (after-change), DiskReadFailed
 * (backoff).
 */
export async function readOverlayExtents(
  path: string,
  options: OverlayOptions = {},
): Promise<OverlayChanges> {
  const { signal } = options;
  return await readExtentsOf(await readImageInfo(path, { format: "qcow2", signal }), options);
}

/** {@link readOverlayExtents} of an overlay that was looked at before. */
export async function readExtentsOf(
  info: ImageInfo,
  options: OverlayOptions = {},
): Promise<OverlayChanges> {
  await using server = await startOverlayServer(info, options);
  return await collectOverlay(server, options.signal);
}

/** The first half of {@link readExtentsOf}, which takes a process; the caller disposes of it. */
export async function startOverlayServer(
  info: ImageInfo,
  { passphrase, signal }: OverlayOptions = {},
): Promise<QemuNbd> {
  return await startQemuNbd({
    path: info.path,
    format: "qcow2",
    // Alone: what lies below costs time and tells nothing of this layer.
    node: toImageNode(info, { withBacking: false, isKeyed: passphrase !== undefined }),
    passphrase,
    metaContexts: [DEPTH_CONTEXT],
    signal,
  });
}

/** The other half: asks a server of {@link startOverlayServer}, which stays the caller's. Errors: NbdUnsupported (never), DiskReadFailed, Nbd*. */
export async function collectOverlay(
  { client }: QemuNbd,
  signal?: AbortSignal,
): Promise<OverlayChanges> {
  const lacks = "it lacks the context qemu:allocation-depth (QEMU 5.2 or later has it)";
  if (!client.info.metaContexts.some(({ name }) => name === DEPTH_CONTEXT)) {
    throw new KluisError("NbdUnsupported", `Cannot use this qemu-nbd: ${lacks}`);
  }
  const isChanged = (depth: number): boolean => depth === DEPTH_LOCAL;
  const extents = await collectChanges(client, { context: DEPTH_CONTEXT, isChanged }, signal);
  return { sizeBytes: client.info.sizeBytes, extents };
}
