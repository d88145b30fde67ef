/** What every operation on a VM is given; internal to this folder. */
import type { Clock } from "#base/clock.ts";
import type { LayeredVm } from "#drivers/layers/layered-vm.ts";
import { planVmDirectory } from "#drivers/layers/vm-directory.ts";
import { planRuntimePaths, type QemuRuntime, type RuntimePaths } from "./arguments.ts";
import type { VmDescription } from "./description.ts";

/** See above. */
export interface VmContext extends LayeredVm {
  readonly description: VmDescription;
  readonly paths: RuntimePaths;
  readonly accelerator: QemuRuntime["accelerator"] | "detect";
}

/** What is the same for all VMs of one state folder. */
export interface VmHost {
  readonly stateDirectory: string;
  readonly clock: Clock;
  readonly accelerator: VmContext["accelerator"];
  readonly onStep: VmContext["onStep"];
}

/** The context of one described VM. */
export function planVmContext(description: VmDescription, host: VmHost): VmContext {
  const directory = planVmDirectory(host.stateDirectory, description.name);
  return {
    description,
    directory,
    paths: planRuntimePaths(directory.runDirectory),
    clock: host.clock,
    accelerator: host.accelerator,
    onStep: host.onStep,
    // Every start builds the chain from the record.
    nameLayers: () => Promise.resolve(),
    readNames: () => Promise.resolve(new Map()),
    readConfigured: () => Promise.resolve(new Set()),
  };
}
