/** Serves the instants of a fleece from QEMU, and reads them and what changed. */
import { existsSync } from "node:fs";
import { join } from "node:path";

import type { Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { createNbdReader } from "#drivers/disk/nbd-reader.ts";
import { collectChanges } from "#drivers/disk/status-changes.ts";
import { openNbdClient, type NbdClient } from "#drivers/nbd/nbd-client.ts";
import type { ChangedExtents, DiskReader } from "#ports/disk.ts";
import { BITMAP_GRANULARITY_BYTES, unionName } from "./bitmap-chain.ts";
import { fleeceNode, listNodes, transact, type FleeceDisk } from "./fleece-graph.ts";
import { executeList, isRefusal, type Monitor } from "./monitor.ts";

/** How long QEMU may take to end an export whose clients it has cut off. */
const EXPORT_END_TIMEOUT_MS = 10_000;
const EXPORT_END_POLL_MS = 10;
const exportPrefix = "kluis-export-";
const changesPrefix = "kluis-changes-";

/** Name of the socket in the folder that a monitor tells. */
export const fleeceSocket = "fleece.sock";

/** Makes the instants readable on the socket. Errors: QmpFailed. */
export async function exportFleece(monitor: Monitor, disks: readonly FleeceDisk[]): Promise<void> {
  const path = join(monitor.socketFolder.inQemu, fleeceSocket);
  const addr = { type: "unix", data: { path } };
  await monitor.execute("nbd-server-start", { addr });
  for (const { name } of disks) {
    const node = fleeceNode("access", name);
    const file = fleeceNode("cbw", name);
    await monitor.execute("blockdev-add", { driver: "snapshot-access", "node-name": node, file });
    const id = `${exportPrefix}${name}`;
    await monitor.execute("block-export-add", { type: "nbd", id, name, "node-name": node });
  }
}

/** Ends all exports of ours, and the server if it is ours and nobody else uses it; repeatable. Errors: QmpFailed. */
export async function endExports(
  monitor: Monitor,
  disks: readonly FleeceDisk[],
  clock: Clock,
): Promise<void> {
  const ours = disks.flatMap(({ name }) => [`${exportPrefix}${name}`, `${changesPrefix}${name}`]);
  const left = await endExportsOf(monitor, ours, clock);
  // QEMU has one server, and removes its socket when that ends: without ours it is somebody else's.
  const isOurs = existsSync(join(monitor.socketFolder.here, fleeceSocket));
  if (left === 0 && isOurs) await stopServer(monitor);
  const nodes = await listNodes(monitor);
  for (const { node } of disks)
    await removeUnion(monitor, nodes.get(node)?.["dirty-bitmaps"], node);
}

/** Ends the exports and waits until they are gone; returns how many others there are. */
async function endExportsOf(
  monitor: Monitor,
  ids: readonly string[],
  clock: Clock,
): Promise<number> {
  const deadlineMs = clock.monotonicMs() + EXPORT_END_TIMEOUT_MS;
  const asked = new Set<string>();
  for (;;) {
    const exports = await executeList(monitor, "query-block-exports");
    const ours = exports.map((each) => String(each["id"])).filter((id) => ids.includes(id));
    if (ours.length === 0) return exports.length;
    if (clock.monotonicMs() > deadlineMs) {
      throw new KluisError("QmpFailed", "Cannot end an export of QEMU: it is still used");
    }
    for (const id of ours) {
      if (!asked.has(id)) await monitor.execute("block-export-del", { id, mode: "hard" });
      asked.add(id);
    }
    await clock.sleep(EXPORT_END_POLL_MS);
  }
}

async function stopServer(monitor: Monitor): Promise<void> {
  try {
    await monitor.execute("nbd-server-stop");
  } catch (error) {
    if (!isRefusal(error) || !/not running/.test(error.message)) throw error;
  }
}

async function removeUnion(monitor: Monitor, bitmaps: unknown, node: string): Promise<void> {
  const isThere = JSON.stringify(bitmaps ?? []).includes(`"${unionName}"`);
  if (isThere) await monitor.execute("block-dirty-bitmap-remove", { node, name: unionName });
}

/** What of a disk is read, and where it is served. */
export interface FleecedDisk {
  /** As this process reaches it. */
  readonly socketPath: string;
  readonly disk: FleeceDisk;
  readonly signal: AbortSignal | undefined;
}

/** Opens the instant of a disk. Errors: DiskReadFailed (backoff). */
export async function openFleecedDisk(at: FleecedDisk): Promise<DiskReader> {
  const { name } = at.disk;
  const client = await connect(at, name, []);
  return createNbdReader({
    client,
    translate: (error) => Promise.resolve(toReadError(error, name)),
    // A broken instant reads as an error, never as anything newer.
    assertUnchanged: () => Promise.resolve(),
    close: () => client[Symbol.asyncDispose](),
  });
}

/**
 * What the union of the bitmaps `names` says, with what reads as zeros now as `zero`. Errors:
 * QmpFailed with `refused` where QEMU cannot merge them; DiskReadFailed (backoff).
 */
export async function readUnion(
  monitor: Monitor,
  at: FleecedDisk,
  names: readonly string[],
): Promise<ChangedExtents> {
  const { node, name } = at.disk;
  const target = { node, name: unionName };
  const granularity = BITMAP_GRANULARITY_BYTES;
  await transact(monitor, [
    {
      type: "block-dirty-bitmap-add",
      data: { ...target, granularity, persistent: false, disabled: true },
    },
    { type: "block-dirty-bitmap-merge", data: { node, target: unionName, bitmaps: names } },
  ]);
  const id = `${changesPrefix}${name}`;
  const bitmaps = [target];
  const access = fleeceNode("access", name);
  const exported = { type: "nbd", id, name: id, "node-name": access, bitmaps };
  await monitor.execute("block-export-add", exported);
  const context = `qemu:dirty-bitmap:${unionName}`;
  await using client = await connect(at, id, [context]);
  const isChanged = (flags: number): boolean => (flags & 1) !== 0;
  try {
    return await collectChanges(client, { context, isChanged }, at.signal);
  } catch (error) {
    throw toReadError(error, name);
  }
}

/** Takes away what {@link readUnion} made for a disk; repeatable. Errors: QmpFailed. */
export async function endUnion(monitor: Monitor, disk: FleeceDisk, clock: Clock): Promise<void> {
  await endExportsOf(monitor, [`${changesPrefix}${disk.name}`], clock);
  const nodes = await listNodes(monitor);
  await removeUnion(monitor, nodes.get(disk.node)?.["dirty-bitmaps"], disk.node);
}

async function connect(
  { disk, socketPath, signal }: FleecedDisk,
  exportName: string,
  metaContexts: readonly string[],
): Promise<NbdClient> {
  try {
    return await openNbdClient(
      { transport: "unix", socketPath, exportName },
      {
        metaContexts: ["base:allocation", ...metaContexts],
        // It ends with its QEMU.
        reconnectAttemptsMax: 0,
        ...(signal === undefined ? {} : { signal }),
      },
    );
  } catch (error) {
    throw toReadError(error, disk.name);
  }
}

/** An instant that is read no more was given up for the guest, or went with its QEMU. */
function toReadError(error: unknown, diskName: string): unknown {
  const isGone = isKluisError(error, "NbdUnavailable");
  if (!isGone && !isKluisError(error, "DiskReadFailed")) return error;
  const reason = isGone
    ? "the VM has stopped, or its QEMU does not answer"
    : "its instant was given up so that the guest goes on: a copy failed, took too long or found no room";
  const message = `Cannot read disk "${diskName}" at its instant: ${reason} (${error.message})`;
  return new KluisError("DiskReadFailed", message, { cause: error });
}
