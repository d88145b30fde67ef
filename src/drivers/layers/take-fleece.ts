/**
 * Takes an instant of a running VM that is kept aside instead of below its disks; the order of steps
 * is that of docs/design/fleecing.md.
 */
import { join } from "node:path";

import { present } from "#base/assert.ts";
import { isKluisError, KluisError, toKluisError } from "#base/kluis-error.ts";
import {
  BITMAPS_MAX,
  BITMAPS_STUCK_MAX,
  planBitmap,
  planCuts,
  type ChainBitmap,
} from "#drivers/fleecing/bitmap-chain.ts";
import { cutChain } from "#drivers/fleecing/cut-chain.ts";
import { exportFleece, fleeceSocket } from "#drivers/fleecing/fleece-exports.ts";
import {
  assertNoOtherJob,
  attachFleece,
  findDisks,
  takeFleeceInstant,
  transact,
  type FleecePlan,
  type FoundDisk,
} from "#drivers/fleecing/fleece-graph.ts";
import type { Monitor } from "#drivers/fleecing/monitor.ts";
import { GuestRound } from "#drivers/guest/guest-round.ts";
import type { ConsistencyRecord, FleeceRequest, SnapshotLabel } from "#ports/hypervisor.ts";
import { chooseDisks } from "./choose-disks.ts";
import { createFleeceFiles, planFleeceFiles, type FleeceFile } from "./fleece-files.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { closeFleece, removeFleece } from "./settle-fleece.ts";
import { createSnapshotId } from "./snapshot-id.ts";
import { writeVmRecord } from "./vm-record-file.ts";
import {
  isOnDevice,
  layerStem,
  originalLayer,
  withFleeceBase,
  type DiskRecord,
  type FleeceRecord,
  type VmRecord,
} from "./vm-record.ts";

/** What is worked on. `record` is in order (see recoverVm); the caller holds both locks of the VM. */
export interface FleeceWork {
  readonly context: LayeredVm;
  readonly record: VmRecord;
  readonly request: FleeceRequest;
  readonly machine: RunningMachine | undefined;
  readonly signal: AbortSignal | undefined;
  /** When the work began, by the monotonic clock. */
  readonly startMs: number;
}

/** A disk of an instant, with its bitmaps as they were before it, and the one that begins with it. */
export interface TakenDisk {
  readonly name: string;
  readonly sizeBytes: number;
  readonly chain: readonly ChainBitmap[];
}

/** An instant that was taken. */
export interface TakenFleece {
  readonly fleece: FleeceRecord;
  readonly disks: readonly TakenDisk[];
  readonly takenAtMs: number;
  readonly tookMs: number;
  readonly consistency: ConsistencyRecord;
  readonly label?: SnapshotLabel;
  readonly notes: readonly string[];
}

/** What the steps share. */
interface Fleecing {
  readonly machine: RunningMachine;
  readonly monitor: Monitor;
  readonly plans: readonly FleecePlan[];
  readonly files: readonly FleeceFile[];
  readonly fleece: FleeceRecord;
}

/**
 * Takes the instant. Errors: VmStateWrong, SnapshotNoSpace, GuestScriptFailed (after-change),
 * SnapshotFailed, QmpFailed, Busy (backoff); the VM goes on as it was.
 */
export async function takeFleece(work: FleeceWork): Promise<TakenFleece> {
  const { context, request, signal } = work;
  const machine = assertPossible(work);
  const record = withFleeceBase(work.record, request.base);
  try {
    await using monitor = await machine.openMonitor(signal);
    await assertNoOtherJob(monitor);
    const fleecing = await planFleecing(
      { ...work, record },
      { machine, monitor },
      createSnapshotId(context.clock.nowMs()),
    );
    const instant = await recordAndApply({ ...work, record }, fleecing);
    const { plans, fleece } = fleecing;
    const { label } = request;
    return {
      fleece,
      disks: plans.map(({ name, found }) => ({
        name,
        sizeBytes: found.sizeBytes,
        chain: [
          ...found.chain,
          planBitmap(found.chain, { snapshotId: fleece.snapshotId, sizeBytes: found.sizeBytes }),
        ],
      })),
      ...instant,
      tookMs: Math.round(context.clock.monotonicMs() - work.startMs),
      ...(label === undefined ? {} : { label }),
      notes: monitor.notes,
    };
  } catch (error) {
    signal?.throwIfAborted();
    if (isKluisError(error) && error.code !== "ToolFailed") throw error;
    const { message } = toKluisError(error);
    throw new KluisError("SnapshotFailed", `Cannot take an instant: ${message}`, { cause: error });
  }
}

function assertPossible({ context, record, request, machine }: FleeceWork): RunningMachine {
  const what = `Cannot back up VM "${context.description.name}" without a snapshot`;
  const names = chooseDisks(context.description, request.disks);
  const isSealed = (disk: DiskRecord): boolean => originalLayer(disk).secretId !== undefined;
  const sealed = record.disks.find((disk) => names.includes(disk.name) && isSealed(disk));
  if (sealed !== undefined) {
    const reason = `disk "${sealed.name}" is encrypted, and what is kept aside of it would not be`;
    throw new KluisError("VmStateWrong", `${what}: ${reason}; take a snapshot, or leave it out`);
  }
  if (record.disks.some((disk) => disk.layers.length > 1)) {
    const reason = "it has snapshots, or layers of some; `kluis vm detach` takes them away";
    throw new KluisError("VmStateWrong", `${what}: ${reason}`);
  }
  if (machine !== undefined) return machine;
  const reason = "it does not run; a snapshot of a stopped VM costs its guest nothing";
  throw new KluisError("VmStateWrong", `${what}: ${reason}`);
}

async function planFleecing(
  { context, record, request }: FleeceWork,
  way: Pick<Fleecing, "machine" | "monitor">,
  snapshotId: string,
): Promise<Fleecing> {
  const { monitor } = way;
  const names = chooseDisks(context.description, request.disks);
  const found = await findShortened(monitor, names, record);
  const seen = names.map((name) => present(found.get(name), "every disk was looked for"));
  const taken = record.disks.filter((disk) => names.includes(disk.name));
  const { here, inQemu } = monitor.socketFolder;
  const rootOfQemu = here.endsWith(inQemu) ? here.slice(0, -inQemu.length) : "";
  const images = taken.map((disk, at) => ({
    // A QEMU of libvirt has device nodes of its own, which belong to its user.
    path: isOnDevice(disk) ? `${rootOfQemu}${originalLayer(disk).path}` : originalLayer(disk).path,
    stem: layerStem(disk),
    sizeBytes: seen[at]?.sizeBytes ?? 0,
  }));
  const files = await planFleeceFiles(images, request);
  const plans = names.map((name, at): FleecePlan => {
    const disk = present(seen[at], "every disk was looked for");
    const file = present(files[at], "every disk has a file");
    const { devicePath, node } = disk;
    return { name, devicePath, node, found: disk, path: file.path, limitBytes: file.limitBytes };
  });
  const disks = plans.map(({ name, devicePath, node, path }) => ({ name, devicePath, node, path }));
  const socketPath = join(monitor.socketFolder.here, fleeceSocket);
  return { ...way, plans, files, fleece: { snapshotId, socketPath, disks } };
}

/** Finds the disks, once bitmaps that are nobody's base are merged where there are too many. */
async function findShortened(
  monitor: Monitor,
  names: readonly string[],
  record: VmRecord,
): Promise<ReadonlyMap<string, FoundDisk>> {
  const found = await findDisks(monitor, names);
  const long = [...found.values()].filter(({ chain }) => chain.length >= BITMAPS_MAX);
  const bases = new Set(Object.values(record.fleeceBases ?? {}));
  for (const { chain, node } of long) await cutChain(monitor, node, planCuts(chain, bases));
  if (long.length === 0) return found;
  const short = await findDisks(monitor, names);
  const stuck = [...short].find(([, { chain }]) => chain.length >= BITMAPS_STUCK_MAX);
  if (stuck === undefined) return short;
  const reason = `another program uses bitmaps of Kluis on disk "${stuck[0]}"; end it, or stop the VM`;
  throw new KluisError("SnapshotFailed", `Cannot take an instant: ${reason}`);
}

/** Those of which bitmaps are there: a stop of the VM takes them, and the OS disk is in every instant. */
function findKnownBases(
  record: VmRecord,
  plans: readonly FleecePlan[],
): NonNullable<VmRecord["fleeceBases"]> {
  const ids = plans.flatMap(({ found }) => found.chain.map(({ snapshotId }) => snapshotId));
  const bases = Object.entries(record.fleeceBases ?? {});
  return Object.fromEntries(bases.filter(([, id]) => ids.includes(id)));
}

/** How consistent an instant is, and when it was. */
type Instant = Pick<TakenFleece, "consistency" | "takenAtMs">;

async function recordAndApply(work: FleeceWork, fleecing: Fleecing): Promise<Instant> {
  const { context, record } = work;
  const { fleece, monitor, plans } = fleecing;
  const fleeceBases = findKnownBases(record, plans);
  const recorded = await writeVmRecord(context, { ...record, fleece, fleeceBases });
  try {
    return await applyFleecing(work, fleecing);
  } catch (error) {
    // The bitmaps of an instant that is none stay in the chain: they only say more.
    await closeFleece(monitor, fleece, context.clock);
    await removeFleece(context, recorded, fleece);
    throw error;
  }
}

async function applyFleecing(work: FleeceWork, fleecing: Fleecing): Promise<Instant> {
  const { context, request, signal } = work;
  const { machine, monitor, plans, fleece } = fleecing;
  const { onStep, clock, directory } = context;
  await createFleeceFiles(fleecing.files);
  await onStep("fleece-recorded");
  await attachFleece(monitor, plans, fleece.snapshotId);
  await onStep("fleece-attached");
  signal?.throwIfAborted();
  const place = { agentSocket: machine.agentSocket, runDirectory: directory.runDirectory, clock };
  await using guest = await GuestRound.open(place, request, signal);
  await guest.quiesce(signal);
  await onStep("quiesced");
  await guest.freeze();
  await onStep("frozen");
  await takeFleeceInstant(monitor, plans);
  const takenAtMs = clock.nowMs();
  await onStep("fleece-taken");
  const consistency = await guest.thaw();
  await onStep("thawed");
  // Older bitmaps record until after the instant: too much, never too little.
  const stops = plans.flatMap(({ node, found }) =>
    found.chain
      .filter(({ isRecording }) => isRecording)
      .map(({ name }) => ({ type: "block-dirty-bitmap-disable", data: { node, name } })),
  );
  await transact(monitor, stops);
  await exportFleece(monitor, plans);
  await onStep("fleece-exported");
  return { consistency, takenAtMs };
}
