/**
 * The mini guest: busybox as init and shell, the guest agent, fio, sqlite3 and flock on ext4. It
 * boots in a few seconds under emulation and holds what tests need to make and check data.
 */
import { copyFile, mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { ensureEntry } from "./cache.ts";
import {
  guestFile,
  hashFiles,
  hashGuestFiles,
  installFile,
  linkBusybox,
  listBusyboxApplets,
  locateProgram,
  writeExt4Image,
  writeInitrd,
  type GuestFiles,
} from "./guest-tree.ts";
import { ensureKernel } from "./kernel.ts";

/** Raised when this file changes what it builds. */
const recipeVersion = 1;

/** Programs of this machine that go into the guest, with their libraries. */
const programs: readonly string[] = ["busybox", "qemu-ga", "fio", "sqlite3", "flock"];

/** Tools that not every busybox has; this machine's own go in where it lacks them. */
const wantedTools: readonly string[] = ["fsfreeze", "fstrim", "setsid", "sha256sum", "timeout"];

/** Files of `guest-files` and where they lie in the guest. */
const guestFiles: GuestFiles = [
  ["mini-inittab", "/etc/inittab"],
  ["mini-rc", "/etc/lab/rc"],
  ["mini-agent", "/etc/lab/agent"],
  ["mini-exec-agent", "/etc/lab/exec-agent"],
  ["mini-shutdown", "/usr/bin/shutdown"],
  ["mount-data-disks", "/usr/bin/lab-mount-data-disks"],
  ["acknowledged-writer", "/usr/bin/lab-acknowledged-writer"],
  ["two-databases-writer", "/usr/bin/lab-two-databases-writer"],
  ["two-databases-hook", "/usr/bin/lab-two-databases-hook"],
  ["freeze-hook", "/usr/bin/lab-freeze-hook"],
];

/** What a guest has beside the mini guest. */
export interface MiniExtra {
  /** Kind of the cache's entry. */
  readonly kind: string;
  readonly rootSizeBytes: number;
  /** What {@link MiniExtra.add} adds, as part of the recipe. */
  readonly recipe: Readonly<Record<string, unknown>>;
  /** Adds files to the tree of the root disk; `scratch` is a folder that is removed afterwards. */
  add(tree: string, scratch: string): Promise<void>;
}

const nothing: MiniExtra = {
  kind: "mini",
  rootSizeBytes: 256 * 1024 * 1024,
  recipe: {},
  add: () => Promise.resolve(),
};

/**
 * Builds the image of the mini guest, with something beside it, where it is not cached; the folder
 * holds `vmlinuz`, `initrd` and `root.raw`.
 */
export async function ensureMiniImage(extra: MiniExtra = nothing): Promise<string> {
  const { rootSizeBytes } = extra;
  const kernel = await ensureKernel();
  const applets = await listBusyboxApplets();
  const tools = wantedTools.filter((name) => !applets.includes(name));
  const located = await Promise.all([...programs, ...tools].map(locateProgram));
  const libraries = [...new Set(located.flatMap((program) => program.libraries))].sort();
  const paths = located.map((program) => program.path);
  const recipe = {
    recipeVersion,
    rootSizeBytes,
    kernel: basename(kernel.directory),
    programs: await hashFiles([...paths, ...libraries]),
    files: await hashGuestFiles(guestFiles),
    ...extra.recipe,
  };
  return ensureEntry(extra.kind, recipe, async (directory) => {
    const tree = join(directory, "tree");
    await makeFolders(tree);
    for (const path of [...paths, ...libraries]) await installFile(tree, path, path);
    for (const [name, to] of guestFiles) await installFile(tree, guestFile(name), to);
    await linkBusybox(tree, applets);
    await writeFile(join(tree, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    await writeFile(join(tree, "etc/group"), "root:x:0:\n");
    const scratch = join(directory, "scratch");
    await extra.add(tree, scratch);
    await rm(scratch, { recursive: true, force: true });
    await writeExt4Image(join(directory, "root.raw"), {
      sizeBytes: rootSizeBytes,
      label: "lab-root",
      content: tree,
    });
    await writeInitrd(kernel, join(tree, "usr/bin/busybox"), directory);
    await copyFile(join(kernel.directory, "vmlinuz"), join(directory, "vmlinuz"));
    await rm(tree, { recursive: true });
    await rm(join(directory, "initrd-tree"), { recursive: true });
  });
}

async function makeFolders(tree: string): Promise<void> {
  for (const name of ["usr/bin", "usr/lib", "usr/lib64"]) {
    await mkdir(join(tree, name), { recursive: true });
  }
  for (const [name, to] of [
    ["bin", "usr/bin"],
    ["sbin", "usr/bin"],
    ["lib", "usr/lib"],
    ["lib64", "usr/lib64"],
    ["usr/sbin", "bin"],
  ] as const) {
    await symlink(to, join(tree, name));
  }
  for (const name of ["dev", "proc", "sys", "run", "tmp", "data", "etc", "root", "var"]) {
    await mkdir(join(tree, name));
  }
}
