/** Finds the programs that Kluis runs, and names the package of one that is absent. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { isAbsolute, join } from "node:path";

import { KluisError } from "#base/kluis-error.ts";

/**
 * Where programs are looked for. Fixed, so that what runs as root does not depend on the caller's
 * PATH (sbin is missing from many of them).
 */
export const TOOL_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Debian and Ubuntu package of each program, for the message of ToolMissing. */
const TOOL_PACKAGES: Readonly<Record<string, string>> = {
  blkdiscard: "util-linux",
  borg: "borgbackup",
  busybox: "busybox-static",
  cpio: "cpio",
  cryptsetup: "cryptsetup-bin",
  debugfs: "e2fsprogs",
  dumpe2fs: "e2fsprogs",
  e2fsck: "e2fsprogs",
  fio: "fio",
  flock: "util-linux",
  libvirtd: "libvirt-daemon-system",
  mke2fs: "e2fsprogs",
  mmdebstrap: "mmdebstrap",
  nbdcopy: "libnbd-bin",
  nbdkit: "nbdkit",
  "qemu-ga": "qemu-guest-agent",
  "qemu-img": "qemu-utils",
  "qemu-io": "qemu-utils",
  "qemu-nbd": "qemu-utils",
  "qemu-storage-daemon": "qemu-system-common",
  "qemu-system-aarch64": "qemu-system-arm",
  "qemu-system-x86_64": "qemu-system-x86",
  restic: "restic",
  setpriv: "util-linux",
  sqlite3: "sqlite3",
  unshare: "util-linux",
  virsh: "libvirt-clients",
  xz: "xz-utils",
};

/**
 * The absolute path of `command`, which is a bare name or an absolute path.
 *
 * Errors: ToolMissing (after-change) with the package to install.
 */
export async function resolveTool(command: string): Promise<string> {
  // It runs us, so it is there; access(2) would ask for the user alone, without our capabilities.
  if (command === process.execPath) return command;
  const folders = isAbsolute(command) ? [""] : TOOL_SEARCH_PATH.split(":");
  for (const folder of folders) {
    const path = folder === "" ? command : join(folder, command);
    if (await isExecutable(path)) return path;
  }
  const name = command.slice(command.lastIndexOf("/") + 1);
  const packageName = TOOL_PACKAGES[name];
  const remedy =
    packageName === undefined ? "install it" : `install it with \`apt-get install ${packageName}\``;
  throw new KluisError("ToolMissing", `Cannot run "${command}": it is not installed; ${remedy}`, {
    details: { tool: command, ...(packageName === undefined ? {} : { package: packageName }) },
  });
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    // Absent and not executable are the same answer here: the next folder may have it.
    return false;
  }
}
