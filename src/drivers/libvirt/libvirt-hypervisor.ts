/** The hypervisor port for the domains of a libvirt. */
import { mkdir } from "node:fs/promises";

import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { LayerOperations } from "#drivers/layers/layer-operations.ts";
import type { RunningMachine, VmStep } from "#drivers/layers/layered-vm.ts";
import { readVirtualSize } from "#drivers/layers/overlay.ts";
import { recoverVm } from "#drivers/layers/recover.ts";
import { readVmRecord } from "#drivers/layers/vm-record-file.ts";
import { activeLayer, originalLayer } from "#drivers/layers/vm-record.ts";
import type { Hypervisor, Vm } from "#ports/hypervisor.ts";
import { assertThisHost, planConfigDirectory } from "./libvirt-place.ts";
import { findLibvirtVm, type LibvirtHost, type LibvirtVm } from "./libvirt-vm.ts";
import { findLibvirtMachine } from "./virsh-machine.ts";
import { Virsh } from "./virsh.ts";

/** Loading a saved machine state reads the guest's memory from disk. */
const START_TIMEOUT_MS = 180_000;
/** How long a guest has to shut down unless the caller says otherwise. */
const SHUTDOWN_TIMEOUT_MS = 60_000;
const STOP_POLL_MS = 100;

/** What {@link openLibvirtHypervisor} needs. */
export interface LibvirtHypervisorOptions {
  /** As `virsh -c` takes it. */
  readonly uri: string;
  /** Folder for records and locks; made with mode 0700 where it is missing. */
  readonly stateDirectory: string;
  /** Where libvirt keeps the XML of its domains; by default where its packages have it. */
  readonly configDirectory?: string;
  /**
   * Name of a started pool of type dir, fs or netfs, where layers of block devices are made. Needed
   * for the first snapshot of a disk; its record keeps the place. A disk without one is refused.
   */
  readonly layerPool?: string;
  readonly clock?: Clock;
  /** Told after each durable step of an operation, before the next begins. */
  readonly onStep?: (step: VmStep) => Promise<void>;
}

/** The port, and stopping. */
export interface LibvirtHypervisor extends Hypervisor {
  /**
   * Asks the guest to shut down, and after `shutdownTimeoutMs` ends the machine; 0 ends it at once.
   * Errors: VmNotFound, VmStateWrong where it does not run, Busy.
   */
  stop(
    vmId: string,
    options?: { readonly shutdownTimeoutMs?: number; readonly signal?: AbortSignal },
  ): Promise<void>;
}

/**
 * Opens the driver. Nothing is read or started before a call; nothing is stopped by disposing. Errors:
 * ArgumentInvalid (after-change) where the address is of another host.
 */
export async function openLibvirtHypervisor(
  options: LibvirtHypervisorOptions,
): Promise<LibvirtHypervisor> {
  await assertThisHost(options.uri);
  await mkdir(options.stateDirectory, { recursive: true, mode: 0o700 });
  return new Domains(options);
}

class Domains extends LayerOperations<LibvirtVm, RunningMachine> implements LibvirtHypervisor {
  readonly #host: LibvirtHost;

  constructor(options: LibvirtHypervisorOptions) {
    const host: LibvirtHost = {
      virsh: new Virsh(options.uri),
      stateDirectory: options.stateDirectory,
      configDirectory: options.configDirectory ?? planConfigDirectory(options.uri),
      clock: options.clock ?? systemClock,
      onStep: options.onStep ?? (() => Promise.resolve()),
      ...(options.layerPool === undefined ? {} : { layerPool: options.layerPool }),
    };
    super({
      findVm: (vmId, signal) => findLibvirtVm(host, vmId, signal),
      findMachine: findLibvirtMachine,
    });
    this.#host = host;
  }

  async list(signal?: AbortSignal): Promise<readonly Vm[]> {
    const output = await this.#host.virsh.ask(["list", "--all", "--uuid"], { signal });
    const vms: Vm[] = [];
    for (const uuid of output.split("\n").filter((line) => line !== "")) {
      try {
        vms.push(await this.get(uuid, signal));
      } catch (error) {
        // Undefined since the list was made.
        if (!isKluisError(error, "VmNotFound")) throw error;
      }
    }
    return vms;
  }

  async get(vmId: string, signal?: AbortSignal): Promise<Vm> {
    return toVm(await findLibvirtVm(this.#host, vmId, signal));
  }

  start(vmId: string, signal?: AbortSignal): Promise<void> {
    return this.operate(vmId, { kind: "start", signal }, async (vm, machine) => {
      const { virsh, domain } = vm;
      if (machine !== undefined) {
        const state = await virsh.ask(["domstate", domain.uuid]);
        if (state.trim() !== "paused") {
          throw new KluisError("VmStateWrong", `Cannot start VM "${domain.name}": it runs already`);
        }
        await virsh.run(["resume", domain.uuid]);
        return;
      }
      await recoverVm(vm, undefined);
      await this.#launch(vm, signal);
    });
  }

  stop(
    vmId: string,
    options: { readonly shutdownTimeoutMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const { signal, shutdownTimeoutMs = SHUTDOWN_TIMEOUT_MS } = options;
    return this.operate(vmId, { kind: "stop", signal }, async (vm, machine) => {
      const { virsh, domain, clock } = vm;
      if (machine === undefined) {
        throw new KluisError("VmStateWrong", `Cannot stop VM "${domain.name}": it does not run`);
      }
      const isStopped = async (): Promise<boolean> => (await findLibvirtMachine(vm)) === undefined;
      if (shutdownTimeoutMs > 0) {
        const mode = domain.hasAgent ? "agent,acpi" : "acpi";
        await virsh.run(["shutdown", domain.uuid, "--mode", mode], { signal });
        const wait = { timeoutMs: shutdownTimeoutMs, pollMs: STOP_POLL_MS, clock, signal };
        if (await waitUntil(isStopped, wait)) return;
      }
      await virsh.run(["destroy", domain.uuid, "--graceful"]);
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#host.virsh[Symbol.dispose]();
    return Promise.resolve();
  }

  async #launch(vm: LibvirtVm, signal: AbortSignal | undefined): Promise<void> {
    const { virsh, domain } = vm;
    try {
      await virsh.run(["start", domain.uuid], { timeoutMs: START_TIMEOUT_MS, signal });
    } catch (error) {
      if (!isKluisError(error, "QmpFailed")) throw error;
      const isLocked = /Failed to get .* lock|another process using the image/.test(error.message);
      throw new KluisError(
        isLocked ? "ImageInUse" : "VmStartFailed",
        `Cannot start VM "${domain.name}": ${error.message}`,
        { cause: error },
      );
    }
  }
}

async function toVm(vm: LibvirtVm): Promise<Vm> {
  const machine = await findLibvirtMachine(vm);
  const { disks } = await readVmRecord(vm);
  return {
    id: vm.domain.uuid,
    name: vm.domain.name,
    state: machine === undefined ? "stopped" : "running",
    disks: await Promise.all(
      disks.map(async (disk) => ({
        name: disk.name,
        sizeBytes: await readVirtualSize(activeLayer(disk)),
        format: originalLayer(disk).format,
        path: disk.describedPath,
        ...(disk.volume === undefined ? {} : { pool: disk.volume.pool }),
      })),
    ),
  };
}
