/** Whether another program writes an image of a VM that is stopped. */
import { KluisError } from "#base/kluis-error.ts";
import { isBlockDevice, isDeviceClaimed, listDeviceWriters } from "#drivers/disk/block-device.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { qemuFormat, type DiskLayer } from "./disk-layer.ts";

const PROBE_TIMEOUT_MS = 30_000;

/**
 * QEMU's image lock says whether another program writes the image of a stopped VM, which may run on
 * another host or in another libvirt; of a device the kernel does, since QEMUs of libvirt lock device
 * nodes of their own. Errors: ImageInUse (after-change).
 */
export async function assertNobodyWrites(layer: DiskLayer): Promise<void> {
  const { path } = layer;
  if (await isBlockDevice(path)) {
    await assertNobodyWritesDevice(path);
    return;
  }
  const args = ["info", "-f", qemuFormat(layer), "--output=json", "--", path];
  const result = await runTool("qemu-img", args, { timeoutMs: PROBE_TIMEOUT_MS });
  if (/Failed to get .* lock/.test(result.stderr)) {
    throw imageInUse(path, "another program writes");
  }
  assertToolSucceeded("qemu-img", result);
}

async function assertNobodyWritesDevice(path: string): Promise<void> {
  const [writer] = await listDeviceWriters(path);
  if (writer !== undefined) throw imageInUse(path, `process ${String(writer)} writes`);
  if (await isDeviceClaimed(path)) throw imageInUse(path, "the host has mounted or claimed");
}

function imageInUse(path: string, who: string): KluisError {
  return new KluisError(
    "ImageInUse",
    `Cannot work on the layers of the VM: ${who} "${path}" although the VM is stopped here`,
    { details: { path } },
  );
}
