/** The hypervisor port for VMs that Kluis starts itself from description files. */
import { mkdir, rm, writeFile } from "node:fs/promises";

import { assert } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import type { Hypervisor, SnapshotRequest, Vm, VmDisk, VmSnapshot } from "#ports/hypervisor.ts";
import type { QemuRuntime } from "./arguments.ts";
import { readDescriptionFiles } from "./description-files.ts";
import { detachVm } from "./detach-vm.ts";
import { findMachine, launchMachine, resumeMachine, stopMachine } from "./machine.ts";
import { readVirtualSize } from "#drivers/layers/overlay.ts";
import { recoverVm } from "./recover.ts";
import { releaseSnapshots } from "./release-snapshots.ts";
import { toVmSnapshot } from "./snapshot-disk.ts";
import { takeSnapshot } from "./take-snapshot.ts";
import { planVmContext, type VmContext, type VmHost, type VmStep } from "./vm-context.ts";
import { ensureVmDirectory } from "./vm-directory.ts";
import {
  acquireVmLock,
  type LockHolder,
  type OperationKind,
  type VmLock,
} from "#drivers/layers/vm-lock.ts";
import { readVmRecord, writeVmRecord } from "./vm-record-file.ts";
import { activeLayer, originalLayer, type VmRecord } from "#drivers/layers/vm-record.ts";

/** How long an operation waits for readers that open and for a merge that it asked to stop. */
const LOCK_TIMEOUT_MS = 120_000;
/** How long a guest has to shut down unless the caller says otherwise. */
export const SHUTDOWN_TIMEOUT_MS = 60_000;

/** The shortest and the longest freeze that may be asked for. */
const freezeBudgetMs = { min: 1_000, max: 10_000 } as const;

/** What {@link openQemuHypervisor} needs. */
export interface QemuHypervisorOptions {
  /** Folder for records, locks and sockets; made with mode 0700 where it is missing. */
  readonly stateDirectory: string;
  /** Description files, or folders of them (`*.json`); read anew by every call. */
  readonly descriptionPaths: readonly string[];
  readonly clock?: Clock;
  /** By default found out: KVM where the processor and /dev/kvm allow it, else emulation. */
  readonly accelerator?: QemuRuntime["accelerator"];
  /** Told after each durable step of an operation, before the next begins. */
  readonly onStep?: (step: VmStep) => Promise<void>;
}

/** The port, and what only VMs of Kluis' own have. */
export interface QemuHypervisor extends Hypervisor {
  /**
   * Asks the guest to shut down, and after `shutdownTimeoutMs` ends the machine; 0 ends it at once.
   * Errors: VmNotFound, VmStateWrong where it does not run, Busy.
   */
  stop(
    vmId: string,
    options?: { readonly shutdownTimeoutMs?: number; readonly signal?: AbortSignal },
  ): Promise<void>;
}

/** Opens the driver. Nothing is read or started before a call; nothing is stopped by disposing. */
export async function openQemuHypervisor(options: QemuHypervisorOptions): Promise<QemuHypervisor> {
  await mkdir(options.stateDirectory, { recursive: true, mode: 0o700 });
  return new DescribedVms(options);
}

class DescribedVms implements QemuHypervisor {
  readonly #host: VmHost;
  readonly #descriptionPaths: readonly string[];

  constructor(options: QemuHypervisorOptions) {
    this.#descriptionPaths = options.descriptionPaths;
    this.#host = {
      stateDirectory: options.stateDirectory,
      clock: options.clock ?? systemClock,
      accelerator: options.accelerator ?? "detect",
      onStep: options.onStep ?? (() => Promise.resolve()),
    };
  }

  async list(signal?: AbortSignal): Promise<readonly Vm[]> {
    signal?.throwIfAborted();
    const files = await readDescriptionFiles(this.#descriptionPaths);
    return Promise.all(files.map((file) => toVm(planVmContext(file.description, this.#host))));
  }

  async get(vmId: string, signal?: AbortSignal): Promise<Vm> {
    signal?.throwIfAborted();
    return toVm(await this.#context(vmId));
  }

  async start(vmId: string, signal?: AbortSignal): Promise<void> {
    await this.#operate(vmId, { kind: "start", signal }, async (context, machine) => {
      if (machine !== undefined) {
        if (await resumeMachine(context, signal)) return;
        throw new KluisError("VmStateWrong", `Cannot start VM "${vmId}": it runs already`);
      }
      const record = await recoverVm(context, undefined);
      const incoming = savedState(context, record);
      // From now on the disks may differ from what the saved state knows.
      await writeVmRecord(context, { ...record, hasStarted: true });
      await launchMachine(context, record, {
        signal,
        ...(incoming === undefined ? {} : { incoming }),
      });
    });
  }

  async stop(
    vmId: string,
    options: { readonly shutdownTimeoutMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const { signal, shutdownTimeoutMs = SHUTDOWN_TIMEOUT_MS } = options;
    await this.#operate(vmId, { kind: "stop", signal }, async (context, machine) => {
      if (machine === undefined) {
        throw new KluisError("VmStateWrong", `Cannot stop VM "${vmId}": it does not run`);
      }
      await stopMachine(context, machine, { shutdownTimeoutMs, signal });
    });
  }

  takeSnapshot(vmId: string, request: SnapshotRequest, signal?: AbortSignal): Promise<VmSnapshot> {
    const { min, max } = freezeBudgetMs;
    const budgetMs = request.freezeBudgetMs;
    assert(budgetMs >= min && budgetMs <= max, "a freeze lasts 1 to 10 s");
    return this.#operate(vmId, { kind: "snapshot", signal }, async (context, machine) => {
      await rm(context.directory.mergeStopPath, { force: true });
      const record = await recoverVm(context, machine);
      const snapshot = await takeSnapshot({ context, record, request, machine, signal });
      return toVmSnapshot(context, snapshot);
    });
  }

  async listSnapshots(vmId: string, signal?: AbortSignal): Promise<readonly VmSnapshot[]> {
    signal?.throwIfAborted();
    const context = await this.#context(vmId);
    const { snapshots } = await readVmRecord(context);
    return snapshots.map((snapshot) => toVmSnapshot(context, snapshot));
  }

  releaseSnapshotsBefore(vmId: string, keepId: string, signal?: AbortSignal): Promise<void> {
    return this.#operate(vmId, { kind: "merge", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await releaseSnapshots({ context, record, machine, keepId, signal });
    });
  }

  detach(vmId: string, signal?: AbortSignal): Promise<void> {
    return this.#operate(vmId, { kind: "detach", signal }, async (context, machine) => {
      const record = await recoverVm(context, machine);
      await detachVm({ context, record, machine, signal });
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  /** Does `work` under the VM's lock; errors of the file system become errors of the operation. */
  async #operate<T>(
    vmId: string,
    operation: { readonly kind: OperationKind; readonly signal: AbortSignal | undefined },
    work: (context: VmContext, machine: ProcessIdentity | undefined) => Promise<T>,
  ): Promise<T> {
    const { kind, signal } = operation;
    const context = await this.#context(vmId);
    try {
      await using _ = await lockVm(context, kind, signal);
      return await work(context, await findMachine(context));
    } catch (error) {
      signal?.throwIfAborted();
      throw toOperationError(error, kind, vmId);
    }
  }

  async #context(vmId: string): Promise<VmContext> {
    const files = await readDescriptionFiles(this.#descriptionPaths);
    const file = files.find((candidate) => candidate.description.name === vmId);
    if (file === undefined) {
      throw new KluisError("VmNotFound", `Cannot find VM "${vmId}": no description names it`);
    }
    const context = planVmContext(file.description, this.#host);
    await ensureVmDirectory(context.directory);
    return context;
  }
}

const operationErrors: Readonly<Record<OperationKind, readonly [ErrorCode, string]>> = {
  start: ["VmStartFailed", "start"],
  stop: ["VmStateWrong", "stop"],
  snapshot: ["SnapshotFailed", "take a snapshot of"],
  merge: ["SnapshotFailed", "release snapshots of"],
  detach: ["SnapshotFailed", "detach"],
  read: ["SnapshotFailed", "read a snapshot of"],
};

/** A full or read-only file system beside the images or below the state folder. */
function toOperationError(error: unknown, kind: OperationKind, vmId: string): unknown {
  const isSystem = error instanceof Error && "syscall" in error;
  if (isKluisError(error) || !isSystem) return error;
  const [code, what] = operationErrors[kind];
  return new KluisError(code, `Cannot ${what} VM "${vmId}": ${error.message}`, { cause: error });
}

/** Takes the VM's lock. A merge makes way for everything else; who opens a snapshot is waited for. */
function lockVm(
  context: VmContext,
  kind: OperationKind,
  signal: AbortSignal | undefined,
): Promise<VmLock> {
  const { lockPath, mergeStopPath } = context.directory;
  const mayWaitFor = async (holder: LockHolder): Promise<boolean> => {
    if (holder.kind === "read") return true;
    if (holder.kind !== "merge" || kind === "merge") return false;
    await writeFile(mergeStopPath, "");
    return true;
  };
  const wait = { timeoutMs: LOCK_TIMEOUT_MS, clock: context.clock, signal, mayWaitFor };
  return acquireVmLock(lockPath, kind, wait);
}

/** The saved state of the description, where the disks are still as it knows them. */
function savedState(context: VmContext, record: VmRecord): string | undefined {
  const isUntouched = !record.hasStarted && record.disks.every((disk) => disk.layers.length === 1);
  return isUntouched ? context.description.incoming : undefined;
}

async function toVm(context: VmContext): Promise<Vm> {
  const { name } = context.description;
  const machine = await findMachine(context);
  const { disks } = await readVmRecord(context);
  return {
    id: name,
    name,
    state: machine === undefined ? "stopped" : "running",
    disks: await Promise.all(
      disks.map(async (disk): Promise<VmDisk> => {
        const sizeBytes = await readVirtualSize(activeLayer(disk));
        const { format } = originalLayer(disk);
        return { name: disk.name, sizeBytes, format, path: disk.describedPath };
      }),
    ),
  };
}
