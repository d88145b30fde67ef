/** What the kernel says of a block device, and of who has it open. */
import { constants } from "node:fs";
import { open, readdir, readFile, stat } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import { orUnseen, readOrUnseen } from "#drivers/process/proc-files.ts";

/** Unit of sysfs, whatever the device. */
const SECTOR_BYTES = 512;
/** Documentation/block/stat.rst, from 0: sectors, not requests; a flush may count as a write of nothing. */
const statFields = { sectorsRead: 2, sectorsWritten: 6, sectorsDiscarded: 13 } as const;
/** Of open(2): the bits that say how a file was opened. */
const ACCESS_MODE = 0o3;

/** What a device was read, written and told to discard since it appeared, as decimal texts. */
export interface DeviceSectors {
  readonly read: string;
  readonly written: string;
  readonly discarded: string;
}

/**
 * A device and the writes that went through it. Two that are equal say that nothing was written in
 * between by this host by way of this device; what lies below it, and other hosts, count nowhere.
 */
export interface DeviceWatch {
  /** The counts begin anew with each start of the host. */
  readonly bootId: string;
  /** `major:minor`. */
  readonly number: string;
  /** Another one for whatever gets this number later. */
  readonly sequence: string;
  readonly sectorsWritten: string;
  readonly sectorsDiscarded: string;
}

/** Whether a path names a block device; symbolic links are followed. Errors of stat(2). */
export async function isBlockDevice(path: string): Promise<boolean> {
  return (await stat(path)).isBlockDevice();
}

/** Size of the device in bytes. Errors: ImageInvalid (after-change) where the kernel does not tell it. */
export async function readDeviceBytes(path: string): Promise<number> {
  const text = await readDeviceFile(await readDeviceNumber(path), "size");
  const sizeBytes = Number(text?.trim()) * SECTOR_BYTES;
  if (Number.isSafeInteger(sizeBytes) && sizeBytes > 0) return sizeBytes;
  const reason = "its size is not to be had: it has no medium, or /sys is not there";
  throw new KluisError("ImageInvalid", `Cannot use the device "${path}": ${reason}`);
}

/** Whether the kernel lets nobody write the device. */
export async function isDeviceReadOnly(path: string): Promise<boolean> {
  return (await readDeviceFile(await readDeviceNumber(path), "ro"))?.trim() === "1";
}

/** The kernel's counts; `undefined` without sysfs. `device` is `st_rdev`. */
export async function readDeviceSectors(device: bigint): Promise<DeviceSectors | undefined> {
  const text = await readDeviceFile(toNumbers(device), "stat");
  if (text === undefined) return undefined;
  const fields = text.trim().split(/\s+/);
  const at = (index: number): string => fields[index] ?? "";
  const { sectorsRead, sectorsWritten, sectorsDiscarded } = statFields;
  return { read: at(sectorsRead), written: at(sectorsWritten), discarded: at(sectorsDiscarded) };
}

/**
 * What to compare with later; `undefined` where the counts prove nothing: without sysfs, on kernels
 * before 5.15, where counting is switched off or the driver does not do it (the caller has read from
 * the device), and for partitions, at which writes to the whole disk do not count.
 */
export async function readDeviceWatch(path: string): Promise<DeviceWatch | undefined> {
  const { rdev } = await stat(path, { bigint: true });
  const number = toNumbers(rdev);
  const sequence = await readDeviceFile(number, "diskseq");
  const isCounting = (await readDeviceFile(number, "queue/iostats"))?.trim() === "1";
  const isPartition = (await readDeviceFile(number, "partition")) !== undefined;
  const sectors = await readDeviceSectors(rdev);
  if (sequence === undefined || sectors === undefined || isPartition || !isCounting) {
    return undefined;
  }
  // A driver that counts no reads counts no writes.
  if (Number(sectors.read) === 0) return undefined;
  const bootId = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  return {
    bootId: bootId.trim(),
    number,
    sequence: sequence.trim(),
    sectorsWritten: sectors.written,
    sectorsDiscarded: sectors.discarded,
  };
}

/** Whether the host itself uses the device: it is mounted, or part of a volume. */
export async function isDeviceClaimed(path: string): Promise<boolean> {
  try {
    // Exclusive without O_CREAT means just that.
    await (await open(path, constants.O_RDONLY | constants.O_EXCL)).close();
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") return true;
    throw error;
  }
}

/**
 * Ids of the processes that have the device open for writing, by whatever name: a QEMU of libvirt has
 * device nodes of its own, at which no lock of others shows. Processes that this user may not look
 * into are left out.
 */
export async function listDeviceWriters(path: string): Promise<readonly number[]> {
  const { rdev } = await stat(path);
  const writers: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    if (await isWrittenBy(`/proc/${name}`, rdev)) writers.push(Number(name));
  }
  return writers;
}

async function isWrittenBy(folder: string, device: number): Promise<boolean> {
  for (const file of await orUnseen(readdir(`${folder}/fd`), [])) {
    const open = await orUnseen(stat(`${folder}/fd/${file}`), undefined);
    if (open?.isBlockDevice() !== true || open.rdev !== device) continue;
    const info = await readOrUnseen(`${folder}/fdinfo/${file}`);
    const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(info)?.[1] ?? "0", 8);
    if ((flags & ACCESS_MODE) !== 0) return true;
  }
  return false;
}

async function readDeviceNumber(path: string): Promise<string> {
  return toNumbers((await stat(path, { bigint: true })).rdev);
}

/** A file of the device in sysfs; `undefined` where it is not there. */
async function readDeviceFile(number: string, name: string): Promise<string | undefined> {
  try {
    return await readFile(`/sys/dev/block/${number}/${name}`, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** `major:minor`, as the C library takes a device number apart. */
function toNumbers(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn);
  return `${String(major)}:${String(minor)}`;
}
