/** What the hypervisor port asks of a VM's layers, for any driver: snapshots, releases, detaching. */
import { rm } from "node:fs/promises";

import { assert } from "#base/assert.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { manageGuestExtension } from "#drivers/guest/manage-guest-extension.ts";
import type {
  DiskSelection,
  DiskSpace,
  ExtensionAction,
  ExtensionState,
  FleecedSnapshot,
  FleeceRequest,
  SnapshotRequest,
  VmSnapshot,
} from "#ports/hypervisor.ts";
import { chooseDisks } from "./choose-disks.ts";
import { detachVm } from "./detach-vm.ts";
import { FleeceInUse } from "./fleece-in-use.ts";
import { readDiskSpace } from "./disk-space.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { recoverVm } from "./recover.ts";
import { releaseSnapshots } from "./release-snapshots.ts";
import { lockToRead, toVmSnapshot } from "./snapshot-disk.ts";
import { takeSnapshot } from "./take-snapshot.ts";
import { operateVm, type VmOperation } from "./vm-operation.ts";
import { lockTransfer } from "./settle-fleece.ts";
import { takeFleece } from "./take-fleece.ts";
import { readVmRecord, writeVmRecord } from "./vm-record-file.ts";
import { withBase } from "./vm-record.ts";

/** The shortest and the longest freeze that may be asked for. */
const freezeBudgetMs = { min: 1_000, max: 10_000 } as const;

/** How a driver finds a VM and the machine that runs it. */
export interface VmFinder<V extends LayeredVm, M extends RunningMachine> {
  /** Errors: VmNotFound. */
  findVm(vmId: string, signal: AbortSignal | undefined): Promise<V>;
  /** `undefined` where none runs. */
  findMachine(vm: V): Promise<M | undefined>;
}

/** See above; a driver's class is built on it. Errors are those of the port. */
export class LayerOperations<V extends LayeredVm, M extends RunningMachine> {
  readonly #finder: VmFinder<V, M>;

  constructor(finder: VmFinder<V, M>) {
    this.#finder = finder;
  }

  /** Does `work` under the VM's lock; see operateVm. */
  async operate<T>(
    vmId: string,
    operation: VmOperation,
    work: (vm: V, machine: M | undefined) => Promise<T>,
  ): Promise<T> {
    const vm = await this.#finder.findVm(vmId, operation.signal);
    return operateVm(vm, operation, async () => work(vm, await this.#finder.findMachine(vm)));
  }

  /** See the port. */
  takeSnapshot(vmId: string, request: SnapshotRequest, signal?: AbortSignal): Promise<VmSnapshot> {
    assertBudget(request);
    return this.operate(vmId, { kind: "snapshot", signal }, async (context, machine) => {
      const startMs = context.clock.monotonicMs();
      await rm(context.directory.mergeStopPath, { force: true });
      const record = await recoverVm(context, machine);
      try {
        const snapshot = await takeSnapshot({ context, record, request, machine, signal, startMs });
        return toVmSnapshot(context, record, snapshot);
      } catch (error) {
        if (isKluisError(error, "GuestScriptFailed")) await mergeRefused(context, machine, signal);
        throw error;
      }
    });
  }

  /** See the port. */
  async takeFleecedSnapshot(
    vmId: string,
    request: FleeceRequest,
    signal?: AbortSignal,
  ): Promise<FleecedSnapshot> {
    assertBudget(request);
    await using owned = new AsyncDisposableStack();
    const vm = await this.#finder.findVm(vmId, signal);
    owned.use(await lockTransfer(vm, signal));
    const taken = await this.operate(
      vmId,
      { kind: "snapshot", signal },
      async (context, machine) => {
        const startMs = context.clock.monotonicMs();
        const record = await recoverVm(context, machine, { isTransferOurs: true });
        return await takeFleece({ context, record, request, machine, signal, startMs });
      },
    );
    const findMachine = (): Promise<M | undefined> => this.#finder.findMachine(vm);
    return new FleeceInUse(taken, { context: vm, findMachine, lock: owned.move() });
  }

  /** See the port. */
  async listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]> {
    signal?.throwIfAborted();
    const vm = await this.#finder.findVm(vmId, signal);
    const record = await readVmRecord(vm);
    return record.snapshots.map((snapshot) => toVmSnapshot(vm, record, snapshot));
  }

  /** See the port. */
  releaseSnapshots(vmId: string, ids: ReadonlySet<string>, signal?: AbortSignal): Promise<void> {
    return this.operate(vmId, { kind: "merge", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await releaseSnapshots({ context, record, machine, ids, signal });
    });
  }

  /** See the port. */
  manageExtension(
    vmId: string,
    action: ExtensionAction,
    signal?: AbortSignal,
  ): Promise<ExtensionState> {
    return this.operate(vmId, { kind: "guest", signal }, async (context, machine) => {
      if (machine === undefined) {
        const reason = "it does not run, and the extension lies in its guest";
        throw new KluisError("VmStateWrong", `Cannot look into VM "${vmId}": ${reason}`);
      }
      await recoverVm(context, machine);
      const { clock } = context;
      return await manageGuestExtension(machine.agentSocket, action, { clock, signal });
    });
  }

  /** See the port. */
  async markBase(
    vmId: string,
    base: { readonly vaultId: string; readonly snapshotId: string },
    signal?: AbortSignal,
  ): Promise<void> {
    const vm = await this.#finder.findVm(vmId, signal);
    await using _ = await lockToRead(vm, signal);
    // Only the note changes: what a dead run left half done stays as it is for who puts it in order.
    await writeVmRecord(vm, withBase(await readVmRecord(vm), base));
  }

  /** See the port. */
  async beginTransfer(vmId: string, signal?: AbortSignal): Promise<AsyncDisposable> {
    return await lockTransfer(await this.#finder.findVm(vmId, signal), signal);
  }

  /** See the port. */
  async readSpace(
    vmId: string,
    selection?: DiskSelection,
    signal?: AbortSignal,
  ): Promise<readonly DiskSpace[]> {
    signal?.throwIfAborted();
    const vm = await this.#finder.findVm(vmId, signal);
    const { disks } = await readVmRecord(vm);
    const names = selection === undefined ? undefined : chooseDisks(vm.description, selection);
    const wanted = disks.filter(({ name }) => names?.includes(name) ?? true);
    return await Promise.all(wanted.map(readDiskSpace));
  }

  /** See the port. */
  detach(vmId: string, signal?: AbortSignal): Promise<void> {
    return this.operate(vmId, { kind: "detach", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await detachVm({ context, record, machine, signal });
    });
  }
}

/**
 * A guest whose scripts refuse each instant that is taken would get one more layer each time: those
 * that no snapshot names are merged, so that two at most are left of any number of them.
 */
async function mergeRefused(
  context: LayeredVm,
  machine: RunningMachine | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const record = await readVmRecord(context);
  try {
    await releaseSnapshots({ context, record, machine, ids: new Set(), signal });
  } catch (error) {
    // Somebody reads or waits: the next release merges them. The refusal is what the caller is told.
    if (!isKluisError(error, "SnapshotInUse") && !isKluisError(error, "Busy")) throw error;
  }
}

function assertBudget({ freezeBudgetMs: budgetMs }: SnapshotRequest): void {
  const { min, max } = freezeBudgetMs;
  assert(budgetMs >= min && budgetMs <= max, "a freeze lasts 1 to 10 s");
}
