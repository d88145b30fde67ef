/**
 * Whether a QEMU process has an image open for writing.
 *
 * QEMU's own tools refuse to read a qcow2 that is written, but not a raw image: readers there let
 * others write. So the locks that every QEMU holds are looked up: byte 101 of the file is locked
 * by who may write, byte 103 by who may resize (QEMU, block/file-posix.c, RAW_LOCK_PERM_BASE).
 */
import { readFile, type FileHandle } from "node:fs/promises";

const WRITE_LOCK_BYTE = 101;
const RESIZE_LOCK_BYTE = 103;

/** Whether some process of this host holds QEMU's lock for writing on the open file. */
export async function isImageWritten(handle: FileHandle): Promise<boolean> {
  const { dev, ino } = await handle.stat({ bigint: true });
  const fdinfo = await readFile(`/proc/self/fdinfo/${String(handle.fd)}`, "utf8");
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  const device = deviceOfLocks({ fdinfo, mounts, dev });
  return holdsWriteLock(await readFile("/proc/locks", "utf8"), { device, inode: ino });
}

/** Whether /proc/locks shows a lock for writing on that file; `device` is `major:minor`, decimal. */
export function holdsWriteLock(
  locks: string,
  file: { readonly device: string; readonly inode: bigint },
): boolean {
  return locks.split("\n").some((line) => {
    // 1: OFDLCK ADVISORY  READ -1 fe:00:2326529 100 101
    const match = /^\d+: \S+ +\S+ +\S+ +-?\d+ ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$/.exec(
      line,
    );
    if (match === null) return false;
    const [, major = "", minor = "", inode = "", start = "", end = ""] = match;
    const device = `${String(Number.parseInt(major, 16))}:${String(Number.parseInt(minor, 16))}`;
    if (device !== file.device || BigInt(inode) !== file.inode) return false;
    const last = end === "EOF" ? Infinity : Number(end);
    return [WRITE_LOCK_BYTE, RESIZE_LOCK_BYTE].some(
      (byte) => byte >= Number(start) && byte <= last,
    );
  });
}

/**
 * The device number that /proc/locks shows for a file, `major:minor` in decimal: that of its mount,
 * which on btrfs is not the one that stat shows. Below a root that is no mount itself, that of a
 * chroot for example, the mount is not listed; there it is stat's.
 *
 * @param file Texts of /proc/self/fdinfo/N and /proc/self/mountinfo, and the number that stat has.
 */
export function deviceOfLocks(file: {
  readonly fdinfo: string;
  readonly mounts: string;
  readonly dev: bigint;
}): string {
  const mountId = /^mnt_id:\s*(\d+)$/m.exec(file.fdinfo)?.[1];
  for (const line of file.mounts.split("\n")) {
    const [id, , device] = line.split(" ");
    if (id === mountId && device !== undefined) return device;
  }
  return toMajorMinor(file.dev);
}

/** As the C library's `major` and `minor` take a device number apart. */
function toMajorMinor(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}
