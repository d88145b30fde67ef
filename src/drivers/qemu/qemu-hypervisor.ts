/** The hypervisor port for VMs that Kluis starts itself from description files. */
import { mkdir } from "node:fs/promises";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { Hypervisor, Vm, VmDisk } from "#ports/hypervisor.ts";
import type { QemuRuntime } from "./arguments.ts";
import { readDescriptionFiles } from "./description-files.ts";
import { findMachine, launchMachine, resumeMachine, stopMachine } from "./machine.ts";
import { LayerOperations } from "#drivers/layers/layer-operations.ts";
import { readVirtualSize } from "#drivers/layers/overlay.ts";
import { recoverVm } from "#drivers/layers/recover.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import { findQemuMachine, type QemuMachine } from "./qmp-machine.ts";
import { planVmContext, type VmContext, type VmHost } from "./vm-context.ts";
import { ensureVmDirectory } from "#drivers/layers/vm-directory.ts";
import { readVmRecord, writeVmRecord } from "#drivers/layers/vm-record-file.ts";
import { activeLayer, originalLayer, type VmRecord } from "#drivers/layers/vm-record.ts";

/** How long a guest has to shut down unless the caller says otherwise. */
export const SHUTDOWN_TIMEOUT_MS = 60_000;

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

class DescribedVms extends LayerOperations<VmContext, QemuMachine> implements QemuHypervisor {
  readonly #host: VmHost;
  readonly #descriptionPaths: readonly string[];

  constructor(options: QemuHypervisorOptions) {
    super({
      findVm: (vmId) => this.#context(vmId),
      findMachine: findQemuMachine,
    });
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
    await this.operate(vmId, { kind: "start", signal }, async (context, machine) => {
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
    await this.operate(vmId, { kind: "stop", signal }, async (context, machine) => {
      if (machine === undefined) {
        throw new KluisError("VmStateWrong", `Cannot stop VM "${vmId}": it does not run`);
      }
      await stopMachine(context, machine.identity, { shutdownTimeoutMs, signal });
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
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
