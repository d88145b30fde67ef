/**
 * Goal: the libvirt driver does what the port promises. Method: the conformance suite on domains of
 * a libvirt of its own, one for the file.
 */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after } from "node:test";

import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import {
  testHypervisor,
  type GuestDevice,
  type HypervisorFixture,
} from "#testing/suites/hypervisor-suite.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";

const deviceMiB = 4;
const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open([deviceMiB, deviceMiB]);
after(() => vms[Symbol.asyncDispose]());

function device(disk: string): GuestDevice {
  return { disk, path: `/dev/${disk}`, sizeBytes: deviceMiB * 1024 * 1024 };
}

async function openFixture(): Promise<HypervisorFixture> {
  const vm = await vms.create({ disks: { vdb: "raw" } });
  const reopen = (): Promise<LibvirtHypervisor> =>
    openLibvirtHypervisor({
      uri: vm.host.uri,
      stateDirectory: join(vm.directory, "state"),
      configDirectory: vm.host.configDirectory,
    });
  const hypervisor = await reopen();
  let isMounted = true;
  return {
    hypervisor,
    vmId: vm.uuid,
    devices: [device("vdb"), device("vdc")],
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
    [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose](),
  };
}

/** The lab's guest mounts what holds ext4; afterwards the tests own the devices. */
async function unmount(vm: LibvirtVm): Promise<void> {
  const wipe = "umount /data/$d; dd if=/dev/zero of=/dev/$d bs=64k count=1 conv=notrunc,fsync";
  await runInGuest(vm.exec, `for d in vdb vdc; do ${wipe}; done 2>/dev/null`);
}

// libvirt does not carry detect_zeroes from a disk to its overlay before the next start.
testHypervisor("libvirt driver", {
  open: openFixture,
  rounds: isLong ? 40 : 4,
  writtenZeros: "data",
});
