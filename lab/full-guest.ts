/**
 * The full guest: Debian or Ubuntu (what this machine runs) with systemd and the distribution's own
 * agent service. Slower to build and to boot than the mini guest; for long tests.
 */
import { copyFile, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { KluisError } from "#base/kluis-error.ts";
import { resolveTool } from "#drivers/process/tool-path.ts";
import { ensureEntry } from "./cache.ts";
import {
  guestFile,
  hashGuestFiles,
  installFile,
  writeExt4Image,
  writeInitrd,
  type GuestFiles,
} from "./guest-tree.ts";
import { ensureKernel } from "./kernel.ts";
import { readTool } from "./tools.ts";

/** Raised when this file changes what it builds. */
const recipeVersion = 1;
const rootSizeBytes = 1024 * 1024 * 1024;

const packages: readonly string[] = [
  "systemd-sysv",
  "udev",
  // guest-shutdown asks logind over it.
  "dbus",
  "qemu-guest-agent",
  "fio",
  "sqlite3",
  "util-linux",
];

/** Files of `guest-files` and where they lie in the guest. */
const guestFiles: GuestFiles = [
  ["mount-data-disks", "/usr/bin/lab-mount-data-disks"],
  ["acknowledged-writer", "/usr/bin/lab-acknowledged-writer"],
  ["two-databases-writer", "/usr/bin/lab-two-databases-writer"],
  ["two-databases-hook", "/usr/bin/lab-two-databases-hook"],
  ["freeze-hook", "/usr/bin/lab-freeze-hook"],
  ["full-data-disks.service", "/etc/systemd/system/lab-data-disks.service"],
];

/**
 * Builds the image where it is not cached; the folder holds `vmlinuz`, `initrd` and `root.raw`.
 * Needs root, as mmdebstrap makes device nodes and files of other users. Errors: ToolMissing.
 */
export async function ensureFullImage(): Promise<string> {
  const kernel = await ensureKernel();
  const distribution = await readDistribution();
  const recipe = {
    recipeVersion,
    rootSizeBytes,
    packages,
    distribution,
    kernel: basename(kernel.directory),
    files: await hashGuestFiles(guestFiles),
  };
  return ensureEntry("full", recipe, async (directory) => {
    const tree = join(directory, "tree");
    await bootstrap(distribution, tree);
    await configure(tree);
    await writeExt4Image(join(directory, "root.raw"), {
      sizeBytes: rootSizeBytes,
      label: "lab-root",
      content: tree,
    });
    await writeInitrd(kernel, await resolveTool("busybox"), directory);
    await copyFile(join(kernel.directory, "vmlinuz"), join(directory, "vmlinuz"));
    await rm(tree, { recursive: true });
    await rm(join(directory, "initrd-tree"), { recursive: true });
  });
}

/** What this machine runs. */
export interface Distribution {
  readonly codename: string;
  /** Archive areas that hold the packages. */
  readonly components: string;
}

/** Errors: ToolMissing where it is neither Debian nor Ubuntu. */
export async function readDistribution(): Promise<Distribution> {
  const text = await readFile("/etc/os-release", "utf8");
  const codename = /^VERSION_CODENAME=(\w+)$/mu.exec(text)?.[1];
  const id = /^ID=(\w+)$/mu.exec(text)?.[1];
  if (codename === undefined || (id !== "debian" && id !== "ubuntu")) {
    throw new KluisError(
      "ToolMissing",
      "Cannot build a lab guest of packages: this machine runs neither Debian nor Ubuntu",
    );
  }
  return { codename, components: id === "debian" ? "main" : "main,universe" };
}

async function bootstrap(distribution: Distribution, tree: string): Promise<void> {
  await readTool("mmdebstrap", [
    "--quiet",
    "--variant=minbase",
    `--components=${distribution.components}`,
    `--include=${packages.join(",")}`,
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--format=directory",
    distribution.codename,
    tree,
  ]);
}

async function configure(tree: string): Promise<void> {
  for (const [name, to] of guestFiles) await installFile(tree, guestFile(name), to);
  const wanted = join(tree, "etc/systemd/system/multi-user.target.wants");
  await mkdir(wanted, { recursive: true });
  await symlink("../lab-data-disks.service", join(wanted, "lab-data-disks.service"));
  await writeFile(join(tree, "etc/fstab"), "/dev/vda / ext4 noatime 0 1\n");
  await writeFile(join(tree, "etc/hostname"), "lab\n");
  await mkdir(join(tree, "etc/qemu"), { recursive: true });
  const agentOptions = "[general]\nfsfreeze-hook=/usr/bin/lab-freeze-hook\n";
  await writeFile(join(tree, "etc/qemu/qemu-ga.conf"), agentOptions);
}
