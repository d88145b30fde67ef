/** What every operation on a VM is given; internal to this folder. */
import type { Clock } from "#base/clock.ts";
import { planRuntimePaths, type QemuRuntime, type RuntimePaths } from "./arguments.ts";
import type { VmDescription } from "./description.ts";
import { planVmDirectory, type VmDirectory } from "./vm-directory.ts";

/**
 * The moments of an operation after each of which something durable has changed. Named for progress
 * and for tests that end the process there.
 */
export const vmSteps = [
  "created",
  "attached",
  "switched",
  "frozen",
  "taken",
  "thawed",
  "recorded",
  "merge-marked",
  "merge-committed",
  "merge-recorded",
  "detach-marked",
  "detach-pending",
  "detach-recorded",
  "detach-finished",
] as const;

/** See {@link vmSteps}. */
export type VmStep = (typeof vmSteps)[number];

/** See above. */
export interface VmContext {
  readonly description: VmDescription;
  readonly directory: VmDirectory;
  readonly paths: RuntimePaths;
  readonly clock: Clock;
  readonly accelerator: QemuRuntime["accelerator"] | "detect";
  /** Told after each step, before the next begins. */
  readonly onStep: (step: VmStep) => Promise<void>;
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
  };
}
