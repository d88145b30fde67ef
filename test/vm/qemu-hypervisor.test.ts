/** Goal: the QEMU driver does what the port promises. Method: the conformance suite on warm lab VMs. */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import type { GuestDevice, HypervisorFixture } from "#testing/suites/hypervisor-fixture.ts";
import { testHypervisor } from "#testing/suites/hypervisor-suite.ts";
import { runInGuest } from "../../lab/guest.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";

const deviceMiB = 4;
const isLong = process.env["KLUIS_LONG"] === "1";

function device(disk: string): GuestDevice {
  return { disk, path: `/dev/${disk}`, sizeBytes: deviceMiB * 1024 * 1024 };
}

async function openFixture(): Promise<HypervisorFixture> {
  const vm = await createDrivenVm({ dataDisksMiB: [deviceMiB, deviceMiB], rawDisk: "vdb" });
  let isMounted = true;
  return {
    hypervisor: vm.hypervisor,
    vmId: vm.vmId,
    devices: [device("vdb"), device("vdc")],
    run: async (script, stdin) => {
      if (isMounted) await unmount(vm);
      isMounted = false;
      const args = ["-c", script];
      const result = await vm.exec({
        path: "/bin/sh",
        args,
        ...(stdin === undefined ? {} : { stdin }),
      });
      if (result.exitCode !== 0) throw new Error(`${script}: ${result.stdout}${result.stderr}`);
      return result.stdout;
    },
    cutPower: () => vm.cutPower(),
    shutDown: () => vm.hypervisor.stop(vm.vmId),
    reopen: () => vm.reopen(),
    readConfiguredImage: async (disk) => {
      const raw = join(vm.lab.directory, "configured.raw");
      const vms = await vm.hypervisor.get(vm.vmId);
      const { format = "", path = "" } = vms.disks.find((each) => each.name === disk) ?? {};
      execFileSync("qemu-img", ["convert", "-f", format, "-O", "raw", path, raw]);
      return readFile(raw);
    },
    [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose](),
  };
}

/** The lab's guest mounts what holds ext4; afterwards the tests own the devices. */
async function unmount(vm: DrivenVm): Promise<void> {
  const wipe = "umount /data/$d; dd if=/dev/zero of=/dev/$d bs=64k count=1 conv=notrunc,fsync";
  await runInGuest(vm.exec, `for d in vdb vdc; do ${wipe}; done 2>/dev/null`);
}

testHypervisor("QEMU driver", { open: openFixture, rounds: isLong ? 40 : 4 });
