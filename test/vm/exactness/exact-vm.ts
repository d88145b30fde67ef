/** A VM of either driver, and what may happen to it from outside. */
import { join } from "node:path";

import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { createVmConfigurations } from "#drivers/qemu/vm-configurations.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import type { GuestExec } from "../../../lab/guest-exec.ts";
import { JsonChannel } from "../../../lab/json-channel.ts";
import { LibvirtVms } from "../../../lab/libvirt-vm.ts";
import { readTool } from "../../../lab/tools.ts";
import type { ChildPlan } from "../child-run.ts";
import { createDrivenVm } from "../driven-vm.ts";
import type { ProtectableVm } from "../protected-vm.ts";
import { findActiveLayer } from "./frozen-copy.ts";

/** Which driver a VM is under. */
export type DriverName = "qemu" | "libvirt";

/** See above. Stopped when it is made; its data disks are vdb (a raw image) and vdc (a qcow2 image). */
export interface ExactVm extends ProtectableVm, AsyncDisposable {
  readonly exec: GuestExec;
  /** To open its driver in another process. */
  readonly driverOptions: ChildPlan["options"];
  /** The same VM through another driver of this process, which is told its steps. */
  reopen(onStep: (step: VmStep) => Promise<void>): Promise<Hypervisor>;
  /** The original image. */
  imagePath(disk: string): string;
  /** Kills QEMU and waits for its end. */
  cutPower(): Promise<void>;
  /** Resets the running machine, as its button does. */
  reset(): Promise<void>;
  /** Has the guest shut down. */
  shutDown(): Promise<void>;
  /** Changes the size of a disk of a running VM, or grows one of a stopped VM, as its owner does. */
  resize(disk: string, sizeBytes: number): Promise<void>;
  /** Kills libvirtd while QEMU goes on, and starts it again; absent where there is none. */
  readonly daemon?: { kill(): Promise<void>; restart(): Promise<void> };
}

/** Makes a VM with two data disks of that size. */
export async function createExactVm(
  driver: DriverName,
  dataDiskMiB: number,
  start: "warm" | "cold" = "warm",
): Promise<ExactVm> {
  return driver === "qemu"
    ? await createQemuVm(dataDiskMiB, start)
    : await createLibvirtVm(dataDiskMiB, start);
}

async function createQemuVm(dataDiskMiB: number, start: "warm" | "cold"): Promise<ExactVm> {
  const dataDisksMiB = [dataDiskMiB, dataDiskMiB];
  const vm = await createDrivenVm({ dataDisksMiB, rawDisk: "vdb", start });
  const { vmId, hypervisor, exec, lab, paths } = vm;
  const imagePath = (disk: string): string =>
    disk === "vdb" ? `${lab.diskPath(disk)}.raw` : lab.diskPath(disk);
  const monitor = (): Promise<JsonChannel> => JsonChannel.openQmp(paths.rescueSocket ?? "");
  return {
    vmId,
    hypervisor,
    configurations: createVmConfigurations(vm.options.descriptionPaths),
    directory: lab.directory,
    exec,
    driverOptions: vm.options,
    reopen: (onStep) => vm.reopen(onStep),
    imagePath,
    cutPower: () => vm.cutPower(),
    reset: async () => {
      using qmp = await monitor();
      await qmp.request("system_reset");
    },
    shutDown: () => hypervisor.stop(vmId),
    resize: async (disk, sizeBytes) => {
      if ((await hypervisor.get(vmId)).state === "stopped") {
        await growFile(imagePath(disk), sizeBytes);
        return;
      }
      using qmp = await monitor();
      const blocks = (await qmp.request("query-block")) as readonly QmpBlock[];
      const block = blocks.find(({ qdev }) => qdev?.includes(`virtio-${disk}`) === true);
      const node = block?.inserted?.["node-name"];
      await qmp.request("block_resize", { "node-name": node, size: sizeBytes });
    },
    [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose](),
  };
}

interface QmpBlock {
  readonly qdev?: string;
  readonly inserted?: { readonly "node-name": string };
}

async function growFile(imagePath: string, sizeBytes: number): Promise<void> {
  const active = await findActiveLayer(imagePath);
  const format = active.endsWith(".raw") ? "raw" : "qcow2";
  await readTool("qemu-img", ["resize", "-q", "-f", format, active, String(sizeBytes)]);
}

async function createLibvirtVm(dataDiskMiB: number, start: "warm" | "cold"): Promise<ExactVm> {
  await using owned = new AsyncDisposableStack();
  const vms = owned.use(await LibvirtVms.open([dataDiskMiB, dataDiskMiB]));
  const vm = owned.use(await vms.create({ disks: { vdb: "raw" }, start }));
  const { host, uuid, exec, directory } = vm;
  const driverOptions = {
    uri: host.uri,
    stateDirectory: join(directory, "state"),
    configDirectory: host.configDirectory,
  };
  const hypervisor = await openLibvirtHypervisor(driverOptions);
  const kept = owned.move();
  return {
    vmId: uuid,
    hypervisor,
    configurations: createDomainConfigurations(host.uri),
    directory,
    exec,
    driverOptions,
    reopen: (onStep) => openLibvirtHypervisor({ ...driverOptions, onStep }),
    imagePath: (disk) => vm.diskPath(disk),
    cutPower: () => vm.cutPower(),
    reset: async () => {
      await host.virsh.run(["reset", uuid]);
    },
    shutDown: () => hypervisor.stop(uuid),
    resize: async (disk, sizeBytes) => {
      const { state } = await hypervisor.get(uuid);
      if (state === "stopped") await growFile(vm.diskPath(disk), sizeBytes);
      else await host.virsh.run(["blockresize", uuid, disk, `${String(sizeBytes)}B`]);
    },
    daemon: { kill: () => host.kill(), restart: () => host.restart() },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
