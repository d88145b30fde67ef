/** What the fixtures of the hypervisor suites share: two small devices in a lab guest. */
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";

import type { GuestDevice, HypervisorFixture } from "#testing/suites/hypervisor-fixture.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import { runInGuest } from "../../lab/guest.ts";

const deviceMiB = 4;

/** Sizes of the data disks that the lab VM is to have. */
export const fixtureDisksMiB: readonly number[] = [deviceMiB, deviceMiB];

/** Both devices as the guest has them. */
export const fixtureDevices: readonly [GuestDevice, GuestDevice] = [
  toDevice("vdb"),
  toDevice("vdc"),
];

function toDevice(disk: string): GuestDevice {
  return { disk, path: `/dev/${disk}`, sizeBytes: deviceMiB * 1024 * 1024 };
}

/**
 * Runs shell scripts in the guest. The lab's guest mounts what holds ext4; from the first script on the
 * tests own the devices.
 */
export function createDeviceRun(exec: GuestExec): HypervisorFixture["run"] {
  let isMounted = true;
  return async (script, stdin) => {
    if (isMounted) {
      const wipe = "umount /data/$d; dd if=/dev/zero of=/dev/$d bs=64k count=1 conv=notrunc,fsync";
      await runInGuest(exec, `for d in vdb vdc; do ${wipe}; done 2>/dev/null`);
    }
    isMounted = false;
    const program = { path: "/bin/sh", args: ["-c", script] };
    const result = await exec({ ...program, ...(stdin === undefined ? {} : { stdin }) });
    if (result.exitCode !== 0) throw new Error(`${script}: ${result.stdout}${result.stderr}`);
    return result.stdout;
  };
}

/** Content of the image of a disk, read by qemu-img; of a machine that stands still with `isOpen`. */
export async function readImageOf(
  vm: { readonly hypervisor: Hypervisor; readonly vmId: string; readonly isOpen?: boolean },
  disk: string,
  scratchPath: string,
): Promise<Uint8Array> {
  const { disks } = await vm.hypervisor.get(vm.vmId);
  const { format = "", path = "" } = disks.find((each) => each.name === disk) ?? {};
  copyDisk({ format, path, isOpen: vm.isOpen === true }, scratchPath);
  return readFile(scratchPath);
}

/** Copies an image to a raw file; one that a machine has open, which stands still, with `isOpen`. */
export function copyDisk(
  image: { readonly path: string; readonly format: string; readonly isOpen: boolean },
  target: string,
): void {
  const { path, format, isOpen } = image;
  const share = isOpen ? ["-U"] : [];
  execFileSync("qemu-img", ["convert", ...share, "-f", format, "-O", "raw", path, target]);
}
