/** A lab VM under either driver, for the cases of never-frozen. */
import { join } from "node:path";

import { planVmDirectory } from "#drivers/layers/vm-directory.ts";
import {
  openLibvirtHypervisor,
  type LibvirtHypervisorOptions,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { QemuHypervisorOptions } from "#drivers/qemu/qemu-hypervisor.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import type { LibvirtLab } from "../../lab/libvirt-host.ts";
import { createDrivenVm } from "./driven-vm.ts";
import type { FrozenDriver } from "./frozen-matrix.ts";
import { FrozenGuest } from "./frozen-guest.ts";

const dataDisksMiB = [4, 4];

/** A VM that runs, with its application. */
export interface FrozenVm extends AsyncDisposable {
  readonly driver: FrozenDriver;
  readonly vmId: string;
  readonly options: QemuHypervisorOptions | LibvirtHypervisorOptions;
  readonly hypervisor: Hypervisor;
  readonly guest: FrozenGuest;
  /** Where the guard of a freeze leaves its identity. */
  readonly guardPath: string;
  /** The libvirt of this VM alone; `undefined` where its driver has none. */
  readonly host: LibvirtLab | undefined;
}

/** Starts a VM with its application. */
export async function startFrozenVm(driver: FrozenDriver): Promise<FrozenVm> {
  return driver === "qemu" ? startOnQemu() : startOnLibvirt();
}

async function startOnQemu(): Promise<FrozenVm> {
  await using owned = new AsyncDisposableStack();
  const vm = owned.use(await createDrivenVm({ dataDisksMiB }));
  const { vmId, options, hypervisor } = vm;
  await hypervisor.start(vmId);
  const guest = owned.use(await FrozenGuest.start(vm.exec, vm.paths.ackSocket));
  const kept = owned.move();
  return {
    driver: "qemu",
    vmId,
    options,
    hypervisor,
    guest,
    guardPath: join(vm.runDirectory, "guard.json"),
    host: undefined,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function startOnLibvirt(): Promise<FrozenVm> {
  await using owned = new AsyncDisposableStack();
  const vms = owned.use(await LibvirtVms.open(dataDisksMiB));
  const vm = owned.use(await vms.create());
  const stateDirectory = join(vm.directory, "state");
  const options = { uri: vm.host.uri, stateDirectory, configDirectory: vm.host.configDirectory };
  const hypervisor = owned.use(await openLibvirtHypervisor(options));
  await hypervisor.start(vm.uuid);
  const guest = owned.use(await FrozenGuest.start(vm.exec, vm.ackSocket));
  const kept = owned.move();
  const { runDirectory } = planVmDirectory(stateDirectory, vm.uuid);
  return {
    driver: "libvirt",
    vmId: vm.uuid,
    options,
    hypervisor,
    guest,
    guardPath: join(runDirectory, "guard.json"),
    host: vm.host,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
