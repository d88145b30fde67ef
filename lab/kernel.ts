/**
 * A guest kernel with its virtio modules, taken from the distribution's package without installing
 * it. The cache keeps the first one it got: guests do not change when the archive gets a newer one.
 */
import { readFile, readdir, rm, writeFile, copyFile, mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { KluisError } from "#base/kluis-error.ts";
import { ensureEntry } from "./cache.ts";
import { readTool } from "./tools.ts";

/** Meta packages, the leanest kernel first: Debian's cloud kernel, then Ubuntu's. */
const metaPackages: readonly string[] = [
  "linux-image-cloud-amd64",
  "linux-image-kvm",
  "linux-image-virtual",
  "linux-image-generic",
  "linux-image-amd64",
];

/**
 * Modules a guest needs to reach its disks and channels; their dependencies are looked up. ext4 asks
 * for crc32c by name, which is no dependency that its module tells.
 */
const neededModules: readonly string[] = [
  "virtio_pci",
  "virtio_blk",
  "virtio_console",
  "crc32c_generic",
  "ext4",
];

/** A kernel in the cache: `vmlinuz`, and under `modules` a file `order` and the modules in it. */
export interface GuestKernel {
  readonly directory: string;
  readonly version: string;
}

/** Returns the cached kernel; fetches it where there is none. Errors: ToolMissing. */
export async function ensureKernel(): Promise<GuestKernel> {
  const recipe = { format: 1, metaPackages, neededModules };
  const directory = await ensureEntry("kernel", recipe, fetchKernel);
  const version = (await readFile(join(directory, "version"), "utf8")).trim();
  return { directory, version };
}

async function fetchKernel(directory: string): Promise<void> {
  const unpacked = join(directory, "unpacked");
  const image = await findImagePackage();
  const version = image.replace(/^linux-image-/u, "");
  await downloadPackage(image, directory, unpacked);
  if ((await listModules(unpacked)).length === 0) {
    // Ubuntu ships the modules in a package of their own.
    await downloadPackage(`linux-modules-${version}`, directory, unpacked);
  }
  await copyFile(join(unpacked, "boot", `vmlinuz-${version}`), join(directory, "vmlinuz"));
  await copyModules(unpacked, version, join(directory, "modules"));
  await writeFile(join(directory, "version"), `${version}\n`);
  await rm(unpacked, { recursive: true });
}

/** The package that holds the kernel itself, for example linux-image-6.1.0-9-cloud-amd64. */
async function findImagePackage(): Promise<string> {
  for (const meta of metaPackages) {
    const image = parseImagePackage(await readTool("apt-cache", ["depends", meta]).catch(() => ""));
    if (image !== undefined) return image;
  }
  throw new KluisError(
    "ToolMissing",
    `Cannot get a guest kernel: none of the packages ${metaPackages.join(", ")} is known to apt; run apt-get update`,
  );
}

/** Finds the versioned kernel package in what `apt-cache depends` printed. */
export function parseImagePackage(depends: string): string | undefined {
  return /Depends: (linux-image-\d\S*)/u.exec(depends)?.[1];
}

async function downloadPackage(name: string, directory: string, into: string): Promise<void> {
  const before = new Set(await readdir(directory));
  await readTool("apt-get", ["download", "-q", name], { cwd: directory });
  const fresh = (await readdir(directory)).filter((file) => !before.has(file));
  const archive = fresh.find((file) => file.endsWith(".deb"));
  if (archive === undefined) {
    throw new KluisError("ToolMissing", `Cannot get "${name}": apt-get downloaded nothing`);
  }
  await readTool("dpkg-deb", ["-x", archive, into], { cwd: directory });
  await rm(join(directory, archive));
}

/** Paths of all modules, relative to `unpacked`. */
async function listModules(unpacked: string): Promise<readonly string[]> {
  const files = await readdir(unpacked, { recursive: true });
  return files.filter((file) => /\.ko(\.(xz|zst|gz))?$/u.test(file));
}

async function copyModules(unpacked: string, version: string, into: string): Promise<void> {
  const files = await listModules(unpacked);
  const byName = new Map(files.map((file) => [moduleName(file), join(unpacked, file)]));
  const config = await readFile(join(unpacked, "boot", `config-${version}`), "utf8");
  await mkdir(into);
  const order: string[] = [];
  for (const name of neededModules) await addModule(name, byName, order);
  if (order.length === 0 && !config.includes("CONFIG_VIRTIO_BLK=y")) {
    throw new KluisError("ToolMissing", `Cannot use the kernel ${version}: it has no virtio disks`);
  }
  for (const name of order) {
    const file = byName.get(name) ?? "";
    await writeFile(join(into, `${name}.ko`), await readModule(file));
  }
  await writeFile(join(into, "order"), order.map((name) => `${name}.ko\n`).join(""));
}

/** Appends `name` after everything it depends on. What is no module is built into the kernel. */
async function addModule(
  name: string,
  byName: ReadonlyMap<string, string>,
  order: string[],
): Promise<void> {
  const file = byName.get(name);
  if (file === undefined || order.includes(name)) return;
  const depends = moduleDependencies(await readModule(file));
  for (const dependency of depends) await addModule(dependency, byName, order);
  order.push(name);
}

/** Reads the `depends=` entry of a module's .modinfo section. */
function moduleDependencies(module: Buffer): readonly string[] {
  const key = Buffer.from("\0depends=");
  const at = module.indexOf(key);
  if (at < 0) return [];
  const text = module.toString("latin1", at + key.length, module.indexOf(0, at + key.length));
  const names = text.split(",").filter((name) => name !== "");
  return names.map((name) => name.replaceAll("-", "_"));
}

async function readModule(file: string): Promise<Buffer> {
  if (file.endsWith(".xz")) {
    const plain = file.slice(0, -".xz".length);
    await readTool("xz", ["-d", "-k", "-f", file]);
    return readFile(plain);
  }
  const bytes = await readFile(file);
  if (file.endsWith(".zst")) return zstdDecompressSync(bytes);
  return file.endsWith(".gz") ? gunzipSync(bytes) : bytes;
}

function moduleName(file: string): string {
  return basename(file)
    .replace(/\.ko(\.\w+)?$/u, "")
    .replaceAll("-", "_");
}
