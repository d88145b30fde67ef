/**
 * A block device of the host over a file of a test, under a name that stays, as that of a logical
 * volume does. The kernel takes it away when the last who has it open is gone, this process above all,
 * so that none outlives a test that was killed.
 */
import { open, rm, symlink, type FileHandle } from "node:fs/promises";
import { systemClock } from "#base/clock.ts";
import { readTool } from "./tools.ts";

const freeTimeoutMs = 10_000;
const freePollMs = 20;

/** See above; disposing lets it go. */
export interface LoopDevice extends AsyncDisposable {
  /** A symbolic link to the device. */
  readonly path: string;
  /** Takes the device away and brings it back, as a restart of the host does; nobody has it open. */
  reattach(): Promise<void>;
}

/** Makes a device over `file`, named `path`. */
export async function openLoopDevice(file: string, path: string): Promise<LoopDevice> {
  let keeper = await attach(file, path);
  const detach = async (): Promise<void> => {
    await keeper.close();
    await rm(path, { force: true });
  };
  return {
    path,
    reattach: async () => {
      await detach();
      await waitUntilFree(file);
      keeper = await attach(file, path);
    },
    [Symbol.asyncDispose]: detach,
  };
}

async function attach(file: string, path: string): Promise<FileHandle> {
  let device: string;
  try {
    device = (await readTool("losetup", ["--show", "-f", file])).trim();
  } catch (error) {
    const hint = "disks of VMs that are block devices are tested on loop devices";
    throw new Error(
      `Cannot make a loop device: ${hint}, which need root and /dev/loop-control; run this test on a ` +
        `machine, or in a container, that has them (${String(error)})`,
      { cause: error },
    );
  }
  const keeper = await open(device, "r");
  // In use, so that the kernel does it when the last one closes it.
  await readTool("losetup", ["-d", device]);
  await symlink(device, path);
  return keeper;
}

async function waitUntilFree(file: string): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + freeTimeoutMs;
  while ((await readTool("losetup", ["-j", file])).trim() !== "") {
    if (systemClock.monotonicMs() > deadlineMs) throw new Error(`somebody keeps ${file} open`);
    await systemClock.sleep(freePollMs);
  }
}
