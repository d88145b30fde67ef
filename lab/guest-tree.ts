/** Building blocks of guest images: a folder tree with programs of this machine, initrd, ext4. */
import { chmod, copyFile, mkdir, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createHash } from "node:crypto";
import { resolveTool } from "#drivers/process/tool-path.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { GuestKernel } from "./kernel.ts";
import { readTool } from "./tools.ts";

const guestFilesRoot = fileURLToPath(new URL("./guest-files/", import.meta.url));
const initramfsInit = "initramfs-init";
const executableMode = 0o755;
const cpioTimeoutMs = 60_000;
const lddTimeoutMs = 30_000;

/** A program with everything the loader needs to start it. */
export interface LocatedProgram {
  readonly path: string;
  /** Absolute paths, the loader included. */
  readonly libraries: readonly string[];
}

/** Path of a file of `lab/guest-files`. */
export function guestFile(name: string): string {
  return join(guestFilesRoot, name);
}

/** SHA-256 over names and contents of `paths`: the part of a recipe that files make up. */
export async function hashFiles(paths: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const path of paths) {
    const bytes = await readFile(path);
    hash.update(`${path}\0${String(bytes.byteLength)}\0`).update(bytes);
  }
  return hash.digest("hex");
}

/** Files of `lab/guest-files` by name, and where they lie in a guest. */
export type GuestFiles = readonly (readonly [name: string, to: string])[];

/** SHA-256 over the files of a guest and over what both initial RAM disks hold. */
export function hashGuestFiles(files: GuestFiles): Promise<string> {
  return hashFiles([initramfsInit, ...files.map(([name]) => name)].map(guestFile));
}

/** Finds a program and its libraries on this machine. Errors: ToolMissing names the package. */
export async function locateProgram(name: string): Promise<LocatedProgram> {
  const path = await resolveTool(name);
  // Exit 1 is a static program, which has no libraries to bring.
  const { stdout } = await runTool("ldd", [path], { timeoutMs: lddTimeoutMs });
  return { path, libraries: parseLibraries(stdout) };
}

/** Absolute paths in what ldd printed. */
export function parseLibraries(listed: string): readonly string[] {
  return [...listed.matchAll(/(?:=> )?(\/\S+) \(0x/gu)].map((match) => match[1] ?? "");
}

/** Copies `from` to the absolute guest path `to` under `tree`, executable. */
export async function installFile(tree: string, from: string, to: string): Promise<void> {
  const target = join(tree, to);
  await mkdir(dirname(target), { recursive: true });
  await copyFile(from, target);
  await chmod(target, executableMode);
}

/** Names that busybox answers to on this machine; distributions build it with different ones. */
export async function listBusyboxApplets(): Promise<readonly string[]> {
  return (await readTool("busybox", ["--list"])).split("\n").filter((name) => name !== "");
}

/** Makes busybox answer to `applets` where nothing better is in `/usr/bin` of `tree`. */
export async function linkBusybox(tree: string, applets: readonly string[]): Promise<void> {
  const present = new Set(await readdir(join(tree, "usr/bin")));
  for (const name of applets) {
    if (!present.has(name)) await symlink("busybox", join(tree, "usr/bin", name));
  }
}

/** Writes the initial RAM disk of both guests: busybox, the kernel's modules, `initramfs-init`. */
export async function writeInitrd(
  kernel: GuestKernel,
  busybox: string,
  directory: string,
): Promise<void> {
  const tree = join(directory, "initrd-tree");
  await installFile(tree, busybox, "bin/busybox");
  await installFile(tree, guestFile(initramfsInit), "init");
  await mkdir(join(tree, "modules"));
  for (const name of await readdir(join(kernel.directory, "modules"))) {
    await copyFile(join(kernel.directory, "modules", name), join(tree, "modules", name));
  }
  const names = (await readdir(tree, { recursive: true })).sort();
  await packCpio(tree, names, join(directory, "initrd"));
}

async function packCpio(tree: string, names: readonly string[], archive: string): Promise<void> {
  const args = ["--quiet", "-o", "-H", "newc", "-R", "0:0", "-F", archive];
  const result = await runTool("cpio", args, {
    cwd: tree,
    stdin: `${names.join("\n")}\n`,
    timeoutMs: cpioTimeoutMs,
  });
  assertToolSucceeded("cpio", result);
}

/** What an ext4 image is to be. */
export interface Ext4Options {
  readonly sizeBytes: number;
  readonly label: string;
  /** Folder whose content the file system gets; empty file system where absent. */
  readonly content?: string;
}

/** Makes a sparse raw image with an ext4 file system; needs neither mount nor loop device. */
export async function writeExt4Image(path: string, options: Ext4Options): Promise<void> {
  await writeFile(path, "");
  const blocks = `${String(Math.floor(options.sizeBytes / 1024))}k`;
  const content = options.content === undefined ? [] : ["-d", options.content];
  const args = ["-q", "-F", "-t", "ext4", "-b", "4096", "-L", options.label, "-m", "0"];
  // A journal and inode tables written now, not lazily by the guest while a test measures changes.
  const extended = ["-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard"];
  await readTool("mke2fs", [...args, ...extended, ...content, path, blocks]);
}
