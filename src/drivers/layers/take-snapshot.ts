/** Freezes one instant of all disks of a VM; the order of steps is that of docs/design/qemu-driver.md. */
import { KluisError, isKluisError, toKluisError } from "#base/kluis-error.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { removeDurably, syncDirectory, syncFile } from "./durable-file.ts";
import { GuestRound } from "#drivers/guest/guest-round.ts";
import { readLayerKey } from "./layer-key.ts";
import { withLayer, withoutTopLayers } from "./layer-changes.ts";
import { readLayerFingerprint } from "./layer-fingerprint.ts";
import { assertDeviceSize } from "./assert-device-size.ts";
import { assertNoInnerSnapshots } from "./assert-layers-free.ts";
import { assertNobodyWrites } from "./assert-nobody-writes.ts";
import { chooseDisks } from "./choose-disks.ts";
import { createOverlay, readVirtualSize } from "./overlay.ts";
import { largestWith } from "./disk-space.ts";
import { planSwitch } from "./recover.ts";
import { createSnapshotId } from "./snapshot-id.ts";
import type { LayeredVm, MachineSession, RunningMachine, UsedChain } from "./layered-vm.ts";
import { folderOf, layerPath } from "./vm-directory.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import {
  activeLayer,
  layerStem,
  LAYERS_MAX,
  mapDisks,
  originalLayer,
  SNAPSHOTS_MAX,
  withoutWork,
  type DiskRecord,
  type LayerRecord,
  type SnapshotRecord,
  type VmRecord,
} from "./vm-record.ts";

/** The layer that a snapshot puts on each disk, by disk name. */
type NewLayers = ReadonlyMap<string, LayerRecord>;

/** What one snapshot works on. `record` is in order (see recoverVm). */
interface SnapshotWork {
  readonly context: LayeredVm;
  readonly record: VmRecord;
  /** Those of the record that the snapshot takes. */
  readonly disks: readonly DiskRecord[];
  readonly request: SnapshotRequest;
  readonly signal: AbortSignal | undefined;
  /** When the work began, by the monotonic clock. */
  readonly startMs: number;
}

/**
 * Takes a snapshot of a VM in order; the caller holds the VM's lock. Errors: SnapshotFailed (backoff),
 * GuestScriptFailed (after-change), SnapshotInUse (backoff) of assertNoInnerSnapshots, and the VM goes on
 * as it was; QmpFailed; ImageInUse where a
 * stopped VM's image is open elsewhere.
 */
export async function takeSnapshot(
  asked: Omit<SnapshotWork, "disks"> & { readonly machine: RunningMachine | undefined },
): Promise<SnapshotRecord> {
  const names = chooseDisks(asked.context.description, asked.request.disks);
  const disks = asked.record.disks.filter((disk) => names.includes(disk.name));
  const work = { ...asked, disks };
  assertRoom(work);
  await assertNoInnerSnapshots(disks.map(activeLayer));
  const bare = disks.filter((disk) => disk.layers.length === 1).map((disk) => disk.name);
  if (bare.length > 0) await asked.context.assertMergePossible?.(bare);
  try {
    return work.machine === undefined
      ? await takeStopped(work)
      : await takeRunning(work, work.machine);
  } catch (error) {
    work.signal?.throwIfAborted();
    if (isKluisError(error) && error.code !== "ToolFailed") throw error;
    const { message } = toKluisError(error);
    throw new KluisError("SnapshotFailed", `Cannot take a snapshot: ${message}`, { cause: error });
  }
}

function assertRoom({ record, disks }: SnapshotWork): void {
  const isFull =
    record.snapshots.length >= SNAPSHOTS_MAX ||
    disks.some((disk) => disk.layers.length >= LAYERS_MAX);
  if (!isFull) return;
  throw new KluisError(
    "SnapshotFailed",
    `Cannot take a snapshot: the VM has ${String(LAYERS_MAX)} layers; release older snapshots first`,
  );
}

async function takeStopped(work: SnapshotWork): Promise<SnapshotRecord> {
  const { context, record, disks } = work;
  for (const disk of disks) await assertNobodyWrites(activeLayer(disk));
  const sizes = new Map<string, number>();
  for (const disk of disks) sizes.set(disk.name, await readVirtualSize(activeLayer(disk)));
  for (const disk of disks) await assertDeviceSize(disk, sizes.get(disk.name) ?? 0);
  const layers = await createLayers(work, sizes);
  await context.onStep("created");
  const switched = await switchLayers(context, record, layers);
  const consistency = { consistency: "crash", reason: "the VM was stopped" } as const;
  const snapshot = planSnapshot(work, { sizes, consistency });
  await recordTaken(work, switched, snapshot);
  await context.onStep("recorded");
  return snapshot;
}

async function takeRunning(work: SnapshotWork, machine: RunningMachine): Promise<SnapshotRecord> {
  const { context, record } = work;
  const { clock } = context;
  await using session = await machine.open(work.signal);
  const chains = await session.queryChains(record.disks);
  const sizes = new Map([...chains].map(([name, chain]) => [name, chain.sizeBytes]));
  for (const disk of work.disks) await assertDeviceSize(disk, sizes.get(disk.name) ?? 0);
  const layers = await createLayers(work, sizes);
  await context.onStep("created");
  let hasSwitched = false;
  let switched: VmRecord = record;
  let guest: GuestRound | undefined;
  try {
    for (const [name, layer] of layers) await session.openLayer(name, layer);
    const { agentSocket } = machine;
    const { runDirectory } = context.directory;
    guest = await GuestRound.open({ agentSocket, runDirectory, clock }, work.request, work.signal);
    for (const disk of work.disks) await syncFile(activeLayer(disk).path);
    await context.onStep("attached");
    work.signal?.throwIfAborted();
    hasSwitched = true;
    switched = await switchLayers(context, record, layers);
    await guest.quiesce(work.signal);
    await context.onStep("quiesced");
    await guest.freeze();
    await context.onStep("frozen");
    await takeInstant(session, work.disks, layers);
  } catch (error) {
    await guest?.[Symbol.asyncDispose]();
    if (isOutcomeUnknown(error)) throw error;
    await takeBack(session, { context, record, hasSwitched, layers, chains });
    throw error;
  }
  await using round = guest;
  await context.onStep("taken");
  const consistency = await thawGuest(work, switched, round);
  await context.onStep("thawed");
  const snapshot = planSnapshot(work, { sizes, consistency });
  await recordTaken(work, switched, snapshot);
  await context.onStep("recorded");
  return snapshot;
}

/** Lets the guest go on; where its scripts refuse the instant, the layers stay and no snapshot names them. */
async function thawGuest(
  work: SnapshotWork,
  switched: VmRecord,
  round: GuestRound,
): Promise<ConsistencyRecord> {
  try {
    return await round.thaw();
  } catch (error) {
    await recordTaken(work, switched, undefined);
    throw error;
  }
}

/**
 * Records the new layers as the active ones, and has every start of the VM use them: they are empty,
 * so that it finds its newest state whether or not the instant was taken.
 */
async function switchLayers(
  context: LayeredVm,
  record: VmRecord,
  layers: NewLayers,
): Promise<VmRecord> {
  const switched = await writeVmRecord(context, planSwitch(record, layers));
  await context.nameLayers(switched);
  await context.onStep("switched");
  return switched;
}

async function recordTaken(
  work: SnapshotWork,
  switched: VmRecord,
  snapshot: SnapshotRecord | undefined,
): Promise<void> {
  const frozen = await freezeLayersOf(work.context, switched, work.disks);
  const snapshots = [...frozen.snapshots, ...(snapshot === undefined ? [] : [snapshot])];
  await writeVmRecord(work.context, { ...withoutWork(frozen), snapshots });
}

/** All disks at one instant. Errors: SnapshotFailed where the machine refused, so that nothing has happened. */
async function takeInstant(
  session: MachineSession,
  disks: readonly DiskRecord[],
  layers: NewLayers,
): Promise<void> {
  const switches = disks.flatMap((disk) => {
    const to = layers.get(disk.name);
    return to === undefined ? [] : [{ diskName: disk.name, from: activeLayer(disk).number, to }];
  });
  try {
    await session.takeInstant(switches);
  } catch (error) {
    if (isKluisError(error, "SnapshotFailed")) throw error;
    throw new UnknownOutcome(toKluisError(error));
  }
}

/** The machine may have taken the snapshot or not; only a new session can tell (see recoverVm). */
class UnknownOutcome extends KluisError {
  constructor(cause: KluisError) {
    super(
      "SnapshotFailed",
      `Cannot tell whether the snapshot was taken: ${cause.message}; the next run finds out`,
      { cause },
    );
  }
}

function isOutcomeUnknown(error: unknown): boolean {
  return error instanceof UnknownOutcome;
}

interface TakeBack {
  readonly context: LayeredVm;
  readonly record: VmRecord;
  /** Whether the new layers may have been recorded. */
  readonly hasSwitched: boolean;
  readonly layers: NewLayers;
  readonly chains: ReadonlyMap<string, UsedChain>;
}

/** Nothing was frozen by the machine: the layers are closed, the record goes back, the files go. */
async function takeBack(session: MachineSession, state: TakeBack): Promise<void> {
  const { context, record, hasSwitched, layers, chains } = state;
  await session.closeUnused(record.disks, chains);
  if (hasSwitched) {
    // The files stay named as garbage until they are gone, which the next operation sees to.
    const switched = planSwitch(record, layers);
    const back = withoutWork(withoutTopLayers(switched, record.nextLayer));
    // While the record names both, a start by others finds its newest state on either.
    await context.nameLayers(back);
    await writeVmRecord(context, back);
  }
  await removeDurably([...layers.values()].map((layer) => layer.path));
}

/** Makes an empty layer for each disk, durable with its name. */
async function createLayers(
  work: SnapshotWork,
  sizes: ReadonlyMap<string, number>,
): Promise<NewLayers> {
  const { context, record, disks, signal } = work;
  const number = record.nextLayer;
  const layers = new Map<string, LayerRecord>();
  for (const disk of disks) {
    const { secretId } = activeLayer(disk);
    layers.set(disk.name, {
      number,
      path: layerPath(layerStem(disk), number),
      format: "qcow2",
      ...(secretId === undefined ? {} : { secretId }),
    });
  }
  const paths = [...layers.values()].map((layer) => layer.path);
  try {
    for (const disk of disks) {
      const path = layerPath(layerStem(disk), number);
      const sizeBytes = sizes.get(disk.name) ?? 0;
      const passphrase = await readLayerKey(context, activeLayer(disk));
      const seal =
        passphrase === undefined ? {} : { seal: { passphrase, original: originalLayer(disk) } };
      await createOverlay({ path, backing: activeLayer(disk), sizeBytes, ...seal }, signal);
    }
    for (const folder of new Set(paths.map(folderOf))) await syncDirectory(folder);
  } catch (error) {
    await removeDurably(paths);
    throw error;
  }
  return layers;
}

function planSnapshot(
  work: SnapshotWork,
  taken: {
    readonly sizes: ReadonlyMap<string, number>;
    readonly consistency: ConsistencyRecord;
  },
): SnapshotRecord {
  const { context } = work;
  const { label } = work.request;
  const takenAtMs = context.clock.nowMs();
  return {
    id: createSnapshotId(takenAtMs),
    takenAtMs,
    consistency: taken.consistency,
    disks: work.disks.map((disk) => ({
      name: disk.name,
      sizeBytes: taken.sizes.get(disk.name) ?? 0,
      layer: activeLayer(disk).number,
      ...(disk.watch === undefined ? {} : { watch: disk.watch }),
    })),
    ...(label === undefined ? {} : { label }),
    tookMs: Math.round(context.clock.monotonicMs() - work.startMs),
  };
}

/** Fingerprints of the layers that the disks had as active ones and `record` has below others. */
async function freezeLayersOf(
  context: LayeredVm,
  record: VmRecord,
  before: readonly DiskRecord[],
): Promise<VmRecord> {
  let frozen = record;
  for (const disk of before) {
    const layer = activeLayer(disk);
    const fingerprint = await readLayerFingerprint(layer.path, context.clock);
    const largest = await largestWith(disk, layer);
    frozen = withLayer(frozen, disk.name, { ...layer, frozen: fingerprint });
    frozen = mapDisks(frozen, (each) => (each.name === disk.name ? { ...each, ...largest } : each));
  }
  return frozen;
}
