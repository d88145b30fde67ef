/** The VMs that a command line names. */
import { resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { VmChangedOutput, VmOutput } from "#contract/cli-output.ts";
import { outputFormat } from "#contract/cli-output.ts";
import type { Hypervisor, Vm } from "#ports/hypervisor.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment, Vms } from "#cli/environment.ts";
import { formatDuration, printable } from "#cli/format.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** Opens the driver of the described VMs, or of those of a libvirt. ArgumentInvalid, ConfigInvalid (after-change). */
export async function openVmsOf(input: CommandInput, environment: CliEnvironment): Promise<Vms> {
  const { workingFolder } = environment;
  const files = input.texts("vm").map((file) => resolve(workingFolder, file));
  const folder = input.text("vms");
  const connect = input.text("connect");
  const isDescribed = files.length > 0 || folder !== undefined;
  if (!isDescribed && connect === undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot find VMs: neither --vm, --vms nor --connect is given",
    );
  }
  if (isDescribed && connect !== undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot find VMs: --connect goes with neither --vm nor --vms",
    );
  }
  const layerPool = input.text("layerPool");
  if (layerPool !== undefined && connect === undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot use --layer-pool without --connect: pools are those of a libvirt",
    );
  }
  return await environment.drivers.openVms({
    files,
    stateFolder: resolve(workingFolder, input.text("state") ?? environment.stateFolder),
    ...(folder === undefined ? {} : { folder: resolve(workingFolder, folder) }),
    ...(connect === undefined ? {} : { connect }),
    ...(layerPool === undefined ? {} : { layerPool }),
  });
}

/** The VM that the first argument names, or the only one there is. VmNotFound, ArgumentInvalid. */
export async function chooseVm(
  input: CommandInput,
  hypervisor: Hypervisor,
  signal: AbortSignal,
): Promise<Vm> {
  const id = input.argument(0);
  if (id !== undefined) return await hypervisor.get(id, signal);
  const vms = await hypervisor.list(signal);
  const [vm, other] = vms;
  if (vm !== undefined && other === undefined) return vm;
  const names = vms.map((candidate) => candidate.id).join(", ");
  throw new KluisError(
    "ArgumentInvalid",
    vms.length === 0
      ? "Cannot choose a VM: there is none"
      : `Cannot choose a VM: name one of ${names}`,
  );
}

/** A VM as the contract has it. */
export async function toVmOutput(
  vm: Vm,
  hypervisor: Hypervisor,
  signal: AbortSignal,
): Promise<VmOutput> {
  const snapshots = await hypervisor.listSnapshots(vm.id, signal);
  return {
    id: vm.id,
    name: vm.name,
    state: vm.state,
    snapshots: snapshots.length,
    disks: vm.disks.map(({ name, path, format, sizeBytes, pool }) => ({
      name,
      path,
      format,
      sizeBytes,
      ...(pool === undefined ? {} : { pool }),
    })),
  };
}

/** Does something to one VM and tells what it is now. */
export async function changeVm(
  input: CommandInput,
  environment: CliEnvironment,
  action: {
    readonly kind: VmChangedOutput["kind"];
    /** `Started`. */
    readonly word: string;
    apply(hypervisor: Hypervisor, vmId: string): Promise<void>;
  },
): Promise<number> {
  const { clock, signal } = environment;
  await using vms = await openVmsOf(input, environment);
  const { hypervisor } = vms;
  const { id } = await chooseVm(input, hypervisor, signal);
  const startMs = clock.monotonicMs();
  await action.apply(hypervisor, id);
  const durationMs = Math.round(clock.monotonicMs() - startMs);
  const vm = await toVmOutput(await hypervisor.get(id, signal), hypervisor, signal);
  const document: VmChangedOutput = { format: outputFormat, kind: action.kind, vm, durationMs };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [`${action.word} VM ${printable(vm.name)} in ${formatDuration(durationMs)}`],
  });
  return 0;
}
