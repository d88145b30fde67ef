/** An instant that is kept aside, as the port has it, while its process reads it. */
import { present } from "#base/assert.ts";
import { parseChain, planCuts, planUnion } from "#drivers/fleecing/bitmap-chain.ts";
import { cutChain } from "#drivers/fleecing/cut-chain.ts";
import { endUnion, openFleecedDisk, readUnion } from "#drivers/fleecing/fleece-exports.ts";
import { listNodes } from "#drivers/fleecing/fleece-graph.ts";
import { isRefusal } from "#drivers/fleecing/monitor.ts";
import type { Extent } from "#ports/disk.ts";
import type {
  ChangesAnswer,
  ConsistencyRecord,
  FleecedSnapshot,
  SnapshotDisk,
  SnapshotLabel,
} from "#ports/hypervisor.ts";
import { unionChanges } from "./change-union.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { closeFleece, removeFleece } from "./settle-fleece.ts";
import { lockToRead } from "./snapshot-disk.ts";
import type { TakenDisk, TakenFleece } from "./take-fleece.ts";
import { readVmRecord, writeVmRecord } from "./vm-record-file.ts";
import { withFleeceBase } from "./vm-record.ts";

/** What an instant that was taken is used with. */
export interface FleeceUse {
  readonly context: LayeredVm;
  /** The machine that runs the VM now; it may have stopped. */
  findMachine(): Promise<RunningMachine | undefined>;
  /** The lock of transfers, which is held as long as the instant lives. */
  readonly lock: AsyncDisposable;
}

/** See above. */
export class FleeceInUse implements FleecedSnapshot {
  readonly id: string;
  readonly takenAtMs: number;
  readonly tookMs: number;
  readonly consistency: ConsistencyRecord;
  readonly label?: SnapshotLabel;
  readonly notes: readonly string[];
  readonly disks: readonly SnapshotDisk[];
  /** It is kept nowhere, so no list needs to know what is based on it. */
  readonly baseOf: readonly string[] = [];
  readonly #taken: TakenFleece;
  readonly #use: FleeceUse;
  #isOpen = true;

  constructor(taken: TakenFleece, use: FleeceUse) {
    this.#taken = taken;
    this.#use = use;
    this.id = taken.fleece.snapshotId;
    this.takenAtMs = taken.takenAtMs;
    this.tookMs = taken.tookMs;
    this.consistency = taken.consistency;
    if (taken.label !== undefined) this.label = taken.label;
    this.notes = taken.notes;
    this.disks = taken.disks.map((disk) => this.#toDisk(disk));
  }

  #toDisk(disk: TakenDisk): SnapshotDisk {
    const { socketPath, disks } = this.#taken.fleece;
    const at = present(
      disks.find(({ name }) => name === disk.name),
      "every disk of an instant is recorded",
    );
    return {
      name: disk.name,
      sizeBytes: disk.sizeBytes,
      open: (signal) => openFleecedDisk({ socketPath, disk: at, signal }),
      changesSince: (baseId, signal) => this.#readChanges(disk, baseId, signal),
      openBase: () => Promise.resolve(undefined),
    };
  }

  async #readChanges(
    disk: TakenDisk,
    baseId: string,
    signal: AbortSignal | undefined,
  ): Promise<ChangesAnswer> {
    const { chain, sizeBytes } = disk;
    const plan = planUnion(chain, { baseId, snapshotId: this.id });
    if (!plan.known) return plan;
    const { context } = this.#use;
    const { fleece } = this.#taken;
    const at = present(
      fleece.disks.find(({ name }) => name === disk.name),
      "every disk of an instant is recorded",
    );
    await using _ = await lockToRead(context, signal);
    const machine = await this.#use.findMachine();
    if (machine === undefined) return { known: false, reason: "the VM has stopped" };
    await using monitor = await machine.openMonitor(signal);
    try {
      const place = { socketPath: fleece.socketPath, disk: at, signal };
      const changes = await readUnion(monitor, place, plan.names);
      const { baseBytes } = plan;
      const lengthBytes = sizeBytes - baseBytes;
      // What lies in the new part of a device is whatever was there.
      const growth: Extent = { offsetBytes: baseBytes, lengthBytes, kind: "data" };
      const extents = lengthBytes === 0 ? changes : unionChanges([growth], changes);
      return { known: true, method: "dirty-bitmap", extents };
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return { known: false, reason: error.message };
    } finally {
      await endUnion(monitor, at, context.clock);
    }
  }

  /** See the port. */
  async markBase(vaultId: string, signal?: AbortSignal): Promise<void> {
    const { context } = this.#use;
    await using _ = await lockToRead(context, signal);
    const base = { vaultId, snapshotId: this.id };
    const record = withFleeceBase(await readVmRecord(context), base);
    await writeVmRecord(context, record);
    const machine = await this.#use.findMachine();
    if (machine === undefined) return;
    await using monitor = await machine.openMonitor(signal);
    const nodes = await listNodes(monitor);
    const bases = new Set(Object.values(record.fleeceBases ?? {}));
    // Of all disks: one that is left out now may have some that were needed before.
    for (const [node, { "dirty-bitmaps": bitmaps }] of nodes) {
      await cutChain(monitor, node, planCuts(parseChain(bitmaps), bases));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    const { context, lock } = this.#use;
    await using _ = lock;
    await using __ = await lockToRead(context, undefined);
    const record = await readVmRecord(context);
    const { fleece } = record;
    // Whoever started the VM again has cleared up.
    if (fleece?.snapshotId !== this.id) return;
    const machine = await this.#use.findMachine();
    await using monitor = await machine?.openMonitor();
    if (monitor !== undefined) await closeFleece(monitor, fleece, context.clock);
    await removeFleece(context, record, fleece);
  }
}
