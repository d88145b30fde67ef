/** That a disk is as large as the block device it lies on: nobody but its owner can make that larger. */
import { KluisError } from "#base/kluis-error.ts";
import { readVirtualSize } from "./overlay.ts";
import { isOnDevice, originalLayer, type DiskRecord } from "./vm-record.ts";

/**
 * Errors: SnapshotFailed (after-change) where the guest sees another size than the device has: layers
 * could not be merged into it, or what lies behind the disk's end would come to light.
 */
export async function assertDeviceSize(disk: DiskRecord, sizeBytes: number): Promise<void> {
  if (!isOnDevice(disk)) return;
  const { path } = originalLayer(disk);
  const deviceBytes = await readVirtualSize(originalLayer(disk));
  if (deviceBytes === sizeBytes) return;
  const sizes = `${String(sizeBytes)} bytes for the VM, and its device "${path}" ${String(deviceBytes)}`;
  throw new KluisError(
    "SnapshotFailed",
    `Cannot take a snapshot: disk "${disk.name}" has ${sizes}; make both equal, for example by ` +
      "`virsh blockresize` or a new start of the VM",
    { details: { disk: disk.name, sizeBytes, deviceBytes } },
  );
}
