/** What the hypervisor port asks of a VM's layers, for any driver: snapshots, releases, detaching. */
import { rm } from "node:fs/promises";

import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { manageGuestExtension } from "#drivers/guest/manage-guest-extension.ts";
import type {
  ExtensionAction,
  ExtensionState,
  SnapshotRequest,
  VmSnapshot,
} from "#ports/hypervisor.ts";
import { detachVm } from "./detach-vm.ts";
import type { LayeredVm, RunningMachine } from "./layered-vm.ts";
import { recoverVm } from "./recover.ts";
import { releaseSnapshots } from "./release-snapshots.ts";
import { toVmSnapshot } from "./snapshot-disk.ts";
import { takeSnapshot } from "./take-snapshot.ts";
import { operateVm, type VmOperation } from "./vm-operation.ts";
import { readVmRecord } from "./vm-record-file.ts";

/** The shortest and the longest freeze that may be asked for. */
const freezeBudgetMs = { min: 1_000, max: 10_000 } as const;

/** How a driver finds a VM and the machine that runs it. */
export interface VmFinder<V extends LayeredVm, M extends RunningMachine> {
  /** Errors: VmNotFound. */
  findVm(vmId: string, signal: AbortSignal | undefined): Promise<V>;
  /** `undefined` where none runs. */
  findMachine(vm: V): Promise<M | undefined>;
}

/** See above. Errors are those of the port. */
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
    const { min, max } = freezeBudgetMs;
    const budgetMs = request.freezeBudgetMs;
    assert(budgetMs >= min && budgetMs <= max, "a freeze lasts 1 to 10 s");
    return this.operate(vmId, { kind: "snapshot", signal }, async (context, machine) => {
      await rm(context.directory.mergeStopPath, { force: true });
      const record = await recoverVm(context, machine);
      const snapshot = await takeSnapshot({ context, record, request, machine, signal });
      return toVmSnapshot(context, snapshot);
    });
  }

  /** See the port. */
  async listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]> {
    signal?.throwIfAborted();
    const vm = await this.#finder.findVm(vmId, signal);
    const { snapshots } = await readVmRecord(vm);
    return snapshots.map((snapshot) => toVmSnapshot(vm, snapshot));
  }

  /** See the port. */
  releaseSnapshotsBefore(vmId: string, keepId: string, signal?: AbortSignal): Promise<void> {
    return this.operate(vmId, { kind: "merge", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await releaseSnapshots({ context, record, machine, keepId, signal });
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
  detach(vmId: string, signal?: AbortSignal): Promise<void> {
    return this.operate(vmId, { kind: "detach", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await detachVm({ context, record, machine, signal });
    });
  }
}
