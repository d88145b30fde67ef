/** Building blocks of guest images: a folder tree with programs of this machine, initrd, ext4. */
import { spawn } from "node:child_process";
import { chmod, copyFile, mkdir, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { finished } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { KluisError } from "#base/kluis-error.ts";
import type { GuestKernel } from "./kernel.ts";
import { runTool } from "./tools.ts";

const guestFilesRoot = fileURLToPath(new URL("./guest-files/", import.meta.url));
const executableMode = 0o755;

/** A program of this machine that goes into a guest. */
export interface GuestProgram {
  readonly name: string;
  readonly debianPackage: string;
}

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

/** Paths of all files of `lab/guest-files`, sorted. */
export async function listGuestFiles(): Promise<readonly string[]> {
  return (await readdir(guestFilesRoot)).sort().map(guestFile);
}

/** Finds a program and its libraries on this machine. Errors: ToolMissing. */
export async function locateProgram(program: GuestProgram): Promise<LocatedProgram> {
  const { name, debianPackage } = program;
  const found = await runTool("sh", ["-c", `command -v "$1"`, "lab", name]).catch(() => "");
  const path = found.trim();
  if (path === "") {
    throw new KluisError(
      "ToolMissing",
      `Cannot put "${name}" into a lab guest: install the package ${debianPackage}`,
      { details: { package: debianPackage } },
    );
  }
  // A static program makes ldd fail; it has no libraries to bring.
  const listed = await runTool("ldd", [path]).catch(() => "");
  return { path, libraries: parseLibraries(listed) };
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

/** Makes busybox answer to all its names for which nothing better is in `/usr/bin` of `tree`. */
export async function linkBusybox(tree: string): Promise<void> {
  const names = (await runTool("busybox", ["--list"], { debianPackage: "busybox-static" })).split(
    "\n",
  );
  const present = new Set(await readdir(join(tree, "usr/bin")));
  for (const name of names) {
    if (name !== "" && !present.has(name)) await symlink("busybox", join(tree, "usr/bin", name));
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
  await installFile(tree, guestFile("initramfs-init"), "init");
  await mkdir(join(tree, "modules"));
  for (const name of await readdir(join(kernel.directory, "modules"))) {
    await copyFile(join(kernel.directory, "modules", name), join(tree, "modules", name));
  }
  const names = (await readdir(tree, { recursive: true })).sort();
  await packCpio(tree, names, join(directory, "initrd"));
}

async function packCpio(tree: string, names: readonly string[], archive: string): Promise<void> {
  const cpio = spawn("cpio", ["--quiet", "-o", "-H", "newc", "-R", "0:0"], {
    cwd: tree,
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    cpio.once("error", reject);
    cpio.once("close", resolve);
  });
  cpio.stdin.end(`${names.join("\n")}\n`);
  const [code] = await Promise.all([
    ended,
    finished(cpio.stdout.pipe(createWriteStream(archive))),
  ]).catch((error: unknown) => {
    throw new KluisError("ToolMissing", `Cannot run "cpio": install the package cpio`, {
      cause: error,
    });
  });
  if (code !== 0) throw new KluisError("Internal", `Cannot pack the initrd: cpio exit ${code}`);
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
  await runTool("mke2fs", [...args, ...extended, ...content, path, blocks], {
    debianPackage: "e2fsprogs",
  });
}
