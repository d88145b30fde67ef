/** The hypervisor suite's VM as a domain of the lab. */
import { execFileSync } from "node:child_process";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { GuestDevice, HypervisorFixture } from "#testing/suites/hypervisor-fixture.ts";
import { runInGuest } from "../../lab/guest.ts";
import type { LibvirtVm, LibvirtVms } from "../../lab/libvirt-vm.ts";

/** Sizes of the data disks that the suite writes to; small, because the guest hashes them. */
export const libvirtDevicesMiB: readonly [number, number] = [2, 2];

/** What a fixture is made of. */
export interface LibvirtFixtureOptions {
  /** Another way to the same libvirt. */
  readonly uri?: string;
  /** What the first data disk is; default `raw`. The layers of a device lie in a pool of the test. */
  readonly vdb?: "raw" | "device";
}

/** The suite's VM, and what it is. */
export interface LibvirtFixture extends HypervisorFixture {
  readonly hypervisor: LibvirtHypervisor;
  readonly vm: LibvirtVm;
  /** Where the layers of a device lie. */
  readonly pool: LayerPool | undefined;
}

/** Makes a domain, stopped. */
export async function openLibvirtFixture(
  vms: LibvirtVms,
  options: LibvirtFixtureOptions = {},
): Promise<LibvirtFixture> {
  const { uri = vms.host.uri, vdb = "raw" } = options;
  await using owned = new AsyncDisposableStack();
  const vm = owned.use(await vms.create({ disks: { vdb } }));
  const pool = vdb === "device" ? owned.use(await createLayerPool(vm)) : undefined;
  const reopen = (): Promise<LibvirtHypervisor> =>
    openLibvirtHypervisor({
      uri,
      stateDirectory: join(vm.directory, "state"),
      configDirectory: vm.host.configDirectory,
      ...(pool === undefined ? {} : { layerPool: pool.name }),
    });
  const hypervisor = await reopen();
  let isMounted = true;
  const ending = owned.move();
  return {
    vm,
    pool,
    hypervisor,
    vmId: vm.uuid,
    devices: [deviceOf("vdb", 0), deviceOf("vdc", 1)],
    run: async (script, stdin) => {
      if (isMounted) await unmount(vm);
      isMounted = false;
      const program = { path: "/bin/sh", args: ["-c", script] };
      const result = await vm.exec({ ...program, ...(stdin === undefined ? {} : { stdin }) });
      if (result.exitCode !== 0) throw new Error(`${script}: ${result.stdout}${result.stderr}`);
      return result.stdout;
    },
    cutPower: async () => {
      await vm.host.virsh.run(["destroy", vm.uuid]);
    },
    shutDown: () => hypervisor.stop(vm.uuid),
    reopen,
    readConfiguredImage: async (disk) => {
      const raw = join(vm.directory, "configured.raw");
      const { disks } = await hypervisor.get(vm.uuid);
      const { format = "", path = "" } = disks.find((each) => each.name === disk) ?? {};
      execFileSync("qemu-img", ["convert", "-f", format, "-O", "raw", path, raw]);
      return readFile(raw);
    },
    [Symbol.asyncDispose]: () => ending.disposeAsync(),
  };
}

/** A pool of files for layers; disposing stops it and leaves the files to the test's folder. */
export interface LayerPool extends AsyncDisposable {
  readonly name: string;
  readonly directory: string;
}

/** Starts a pool below the folder of a test. */
export async function createLayerPool(
  { host, directory }: LibvirtVm,
  name = "kluis-layers",
): Promise<LayerPool> {
  const target = join(directory, name);
  await mkdir(target);
  await host.virsh.run(["pool-create-as", name, "dir", "--target", target]);
  return {
    name,
    directory: target,
    [Symbol.asyncDispose]: async () => {
      await host.virsh.run(["pool-destroy", name]);
    },
  };
}

function deviceOf(disk: string, index: 0 | 1): GuestDevice {
  return { disk, path: `/dev/${disk}`, sizeBytes: libvirtDevicesMiB[index] * 1024 * 1024 };
}

/** The lab's guest mounts what holds ext4; afterwards the tests own the devices. */
async function unmount(vm: LibvirtVm): Promise<void> {
  const wipe = "umount /data/$d; dd if=/dev/zero of=/dev/$d bs=64k count=1 conv=notrunc,fsync";
  await runInGuest(vm.exec, `for d in vdb vdc; do ${wipe}; done 2>/dev/null`);
}
