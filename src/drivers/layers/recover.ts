/**
 * Puts a VM in order before anything else is done to it: what a dead run left half done is finished
 * or taken back, so that the record names exactly the layers that are used.
 */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { endLeftoverGuard } from "#drivers/guest/guard-link.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import {
  frozenLayers,
  withLayer,
  withMergedLayers,
  withNewLayers,
  withoutTopLayers,
} from "./layer-changes.ts";
import { assertLayerUnchanged, readLayerFingerprint } from "./layer-fingerprint.ts";
import { isOverlayEmpty, readBackingPath, rebaseOverlay } from "./overlay.ts";
import { readLayerKey } from "./layer-key.ts";
import type { OpenedLayer } from "./layer-node.ts";
import { readHeaderChain, withForeignMerge } from "./old-chains.ts";
import { removeLayers } from "./remove-layers.ts";
import { settleFleece } from "./settle-fleece.ts";
import type { LayeredVm, RunningMachine, UsedChain } from "./layered-vm.ts";
import { layerPath, listLayerPaths } from "./vm-directory.ts";
import { readVmRecord, unknownLayer, writeVmRecord } from "./vm-record-file.ts";
import {
  isOnDevice,
  layerStem,
  originalLayer,
  withoutWork,
  withWatchEnded,
  type DiskRecord,
  type LayerRecord,
  type VmRecord,
} from "./vm-record.ts";

/** How long a silent agent is waited for when a dead run may have left the guest frozen. */
const CLEAR_FREEZE_TIMEOUT_MS = 5_000;

/**
 * Reads the record and puts the VM in order; the caller holds the VM's lock. On return no work is
 * recorded, every frozen layer has a fingerprint and is as it was frozen, a running QEMU holds
 * no layer open that its disks do not use, and no filter is left in it.
 *
 * @param options `isTransferOurs`: the caller holds the lock of transfers.
 *
 * Errors: SnapshotBaseChanged; QmpFailed where a running QEMU does not answer; Busy (backoff) where
 * somebody reads an instant that is kept aside; those of readVmRecord.
 */
export async function recoverVm(
  context: LayeredVm,
  machine: RunningMachine | undefined,
  options: { readonly isTransferOurs?: boolean } = {},
): Promise<VmRecord> {
  await endLeftoverGuard(context.directory.runDirectory, context.clock);
  const recorded = await readVmRecord(context);
  await assertMoveHolds(context);
  const isOurs = options.isTransferOurs === true;
  // The run that left it may have died with the guest frozen.
  if (machine !== undefined && recorded.fleece !== undefined) await clearFreeze(context, machine);
  const found = await settleFleece(context, machine, { record: recorded, isOurs });
  const settled =
    machine === undefined
      ? await settleStopped(context, await followNames(context, found))
      : await settleWithMachine(context, machine, found);
  const frozen = await freezeSettled(context, machine, settled);
  return removeGarbage(context, frozen);
}

/**
 * What was read before the lock was taken may have been undone since: a disk is moved by what its
 * configuration says now. Errors: Busy (backoff).
 */
async function assertMoveHolds({ description, readNames }: LayeredVm): Promise<void> {
  const moved = description.disks.filter((disk) => disk.isMoved === true);
  if (moved.length === 0) return;
  const names = await readNames();
  const other = moved.find((disk) => names.get(disk.name) !== disk.path);
  if (other === undefined) return;
  const reason = `disk "${other.name}" has just been given another image by another program`;
  throw new KluisError("Busy", `Cannot work on the VM: ${reason}`);
}

/**
 * A merge that was complete when everything died has given a layer a header that names the merged
 * chain; the record, which decides, still has the longer one. Both show the same disk.
 */
async function settleStopped(context: LayeredVm, found: VmRecord): Promise<VmRecord> {
  if (found.work === undefined) return await followHeaders(found);
  for (const disk of found.disks) {
    for (const [at, layer] of disk.layers.entries()) {
      const below = disk.layers[at - 1];
      if (below === undefined || layer.frozen !== undefined) continue;
      if ((await readBackingPath(layer.path)) === below.path) continue;
      await rebaseOverlay(layer, below, await readLayerKey(context, layer));
    }
  }
  return withoutWork(found);
}

/**
 * Without work of ours, headers that leave layers out are another program's merge. Errors:
 * SnapshotBaseChanged where one names what is no layer.
 */
async function followHeaders(record: VmRecord): Promise<VmRecord> {
  let followed = record;
  for (const disk of record.disks) {
    const used = await readHeaderChain(disk);
    if (used.length === disk.layers.length) continue;
    followed = withForeignMerge(followed, disk, used);
  }
  return followed;
}

/**
 * A flattening names the original for the next start once that is complete, and then records it. A
 * run that died in between leaves a VM that may have been started on the original since.
 */
async function followNames(context: LayeredVm, found: VmRecord): Promise<VmRecord> {
  if (found.work?.kind !== "detach") return found;
  const names = await context.readNames();
  let followed = found;
  for (const disk of found.disks) {
    if (names.get(disk.name) !== disk.describedPath) continue;
    const above = disk.layers.slice(1).map((layer) => layer.number);
    followed = withMergedLayers(followed, disk.name, above);
  }
  return followed;
}

/** Brings record and block graph of a running machine together. */
async function settleWithMachine(
  context: LayeredVm,
  machine: RunningMachine,
  found: VmRecord,
): Promise<VmRecord> {
  if (found.work?.kind === "snapshot") await clearFreeze(context, machine);
  await using session = await machine.open();
  await session.settle(found);
  const chains = await session.queryChains(found.disks);
  const settled = withoutWork(followChains(await dropEmpty(context, found, chains), chains));
  await session.closeUnused(settled.disks, chains);
  return settled;
}

/** A guest that a dead run left frozen is thawed by the session itself. */
async function clearFreeze(context: LayeredVm, machine: RunningMachine): Promise<void> {
  const { clock } = context;
  try {
    const timeoutMs = CLEAR_FREEZE_TIMEOUT_MS;
    await using _ = await GuestAgent.open(machine.agentSocket, { clock, timeoutMs });
  } catch (error) {
    // No agent: the watchdog in the guest has thawed, or will.
    if (!isKluisError(error, "AgentUnavailable") && !isKluisError(error, "AgentFailed")) {
      throw error;
    }
  }
}

/**
 * A machine that another program brought back from a state of its own (`virsh restore`) writes the layer
 * that was active then. Where those above hold nothing, or are gone, they go: without work of ours only.
 */
async function dropEmpty(
  context: LayeredVm,
  record: VmRecord,
  chains: ReadonlyMap<string, UsedChain>,
): Promise<VmRecord> {
  if (record.work !== undefined) return record;
  let followed = record;
  for (const disk of record.disks) {
    const used = chains.get(disk.name)?.numbers ?? [];
    const unused = unusedLayers(disk, used);
    if (unused.length === 0 || !(await areEmpty(context, unused))) continue;
    followed = withForeignMerge(followed, disk, used);
    followed = { ...followed, garbage: [...followed.garbage, ...unused.map(({ path }) => path)] };
  }
  return followed;
}

/** Layers above what QEMU writes. */
function unusedLayers(disk: DiskRecord, used: readonly number[]): readonly LayerRecord[] {
  const top = used.at(-1) ?? 0;
  return disk.layers.filter((layer) => layer.number > top);
}

async function areEmpty(context: LayeredVm, layers: readonly LayerRecord[]): Promise<boolean> {
  for (const layer of layers) {
    try {
      if (!(await isOverlayEmpty(layer, await readLayerKey(context, layer)))) return false;
    } catch (error) {
      if (!isKluisError(error, "ImageNotFound")) throw error;
    }
  }
  return true;
}

/**
 * The record as QEMU's chains say: layers above what QEMU writes were never used, layers that are
 * missing below have been merged into those below them, by a run of ours that died or another program.
 */
function followChains(record: VmRecord, chains: ReadonlyMap<string, UsedChain>): VmRecord {
  let followed = record;
  for (const disk of record.disks) {
    const used = chains.get(disk.name)?.numbers ?? [];
    const top = used.at(-1) ?? 0;
    const unused = unusedLayers(disk, used);
    const isFlat = record.work?.kind === "detach" && top === 0;
    if (unused.length > 0 && record.work?.kind !== "snapshot" && !isFlat) {
      throw new KluisError(
        "SnapshotBaseChanged",
        `Cannot work on the VM: QEMU writes layer ${String(top)} of disk "${disk.name}", which ` +
          "the record has as frozen; copy its data from inside before you stop it, or, where another " +
          `program has merged what lay above, remove ${listUnused(record, chains)}`,
        { details: { disk: disk.name } },
      );
    }
    for (const layer of unused) followed = withoutTopLayers(followed, layer.number);
    const merged = disk.layers.filter(
      (layer) => layer.number < top && !used.includes(layer.number),
    );
    if (merged.length > 0 && record.work === undefined) {
      followed = withForeignMerge(followed, disk, used);
      continue;
    }
    followed = withMergedLayers(
      followed,
      disk.name,
      merged.map((layer) => layer.number),
    );
  }
  return followed;
}

function listUnused(record: VmRecord, chains: ReadonlyMap<string, UsedChain>): string {
  const layers = record.disks.flatMap((disk) =>
    unusedLayers(disk, chains.get(disk.name)?.numbers ?? []),
  );
  return layers.map(({ path }) => `"${path}"`).join(", ");
}

/** While another program merges layers they are not as they were frozen. Errors: Busy for that. */
async function freezeSettled(
  context: LayeredVm,
  machine: RunningMachine | undefined,
  record: VmRecord,
): Promise<VmRecord> {
  try {
    return await freezeLayers(context, record);
  } catch (error) {
    if (!isKluisError(error, "SnapshotBaseChanged") || machine === undefined) throw error;
    await using session = await machine.open();
    await session.assertFree(record.disks.map((disk) => disk.name));
    throw error;
  }
}

/**
 * Checks the frozen layers, and takes fingerprints where a run died before it could, and of devices
 * that may have been written since nobody counted.
 */
async function freezeLayers(context: LayeredVm, record: VmRecord): Promise<VmRecord> {
  let frozen = record;
  for (const disk of record.disks) {
    for (const layer of frozenLayers(disk)) {
      const isKnown =
        layer.frozen !== undefined && (await assertLayerUnchanged(layer.path, layer.frozen));
      if (isKnown) continue;
      const fingerprint = await readLayerFingerprint(layer.path, context.clock);
      frozen = withLayer(frozen, disk.name, { ...layer, frozen: fingerprint });
      const isDevice = layer.number === 0 && isOnDevice(disk);
      if (isDevice) frozen = withWatchEnded(frozen, disk.name);
    }
  }
  return frozen;
}

/** Records what was found, then removes files that are in no chain. */
async function removeGarbage(context: LayeredVm, record: VmRecord): Promise<VmRecord> {
  const unrecorded = await findUnrecorded(context, record);
  await context.nameLayers(record);
  await writeVmRecord(context, record);
  await removeLayers(context, record, [...record.garbage, ...unrecorded]);
  return record.garbage.length === 0 ? record : writeVmRecord(context, { ...record, garbage: [] });
}

/**
 * Layers that a run made and did not live to record: of the next number, and empty. Any other layer
 * that the record does not know holds what a guest wrote under a newer record. Errors:
 * SnapshotBaseChanged.
 */
async function findUnrecorded(context: LayeredVm, record: VmRecord): Promise<readonly string[]> {
  const unrecorded: string[] = [];
  for (const disk of record.disks) {
    const stem = layerStem(disk);
    const own = disk.layers.map((layer) => layer.path);
    const known = [...own, ...(disk.left ?? []), ...record.garbage];
    for (const path of await listLayerPaths(stem)) {
      if (known.includes(path)) continue;
      const isNext = path === layerPath(stem, record.nextLayer);
      const layer: OpenedLayer = { ...originalLayer(disk), path, format: "qcow2" };
      const isLeft = isNext && (await isOverlayEmpty(layer, await readLayerKey(context, layer)));
      if (!isLeft) throw unknownLayer(disk.name, path);
      unrecorded.push(path);
    }
  }
  return unrecorded;
}

/** Records new layers, with the work they belong to. */
export function planSwitch(
  record: VmRecord,
  layers: Parameters<typeof withNewLayers>[1],
): VmRecord {
  const layer = record.nextLayer;
  return {
    ...withNewLayers(record, layers),
    nextLayer: layer + 1,
    work: { kind: "snapshot", layer },
  };
}
