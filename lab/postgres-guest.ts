/**
 * The postgres guest: the mini guest with PostgreSQL as this machine's distribution packages it,
 * unpacked beside busybox and run as its own user. Nothing of it is installed on this machine.
 */
import { appendFile, cp, mkdir, readdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { runTool } from "#drivers/process/run-tool.ts";
import { readDistribution } from "./full-guest.ts";
import {
  guestFile,
  hashGuestFiles,
  installFile,
  parseLibraries,
  type GuestFiles,
} from "./guest-tree.ts";
import { ensureMiniImage } from "./mini-guest.ts";
import { readTool } from "./tools.ts";

/** Raised when this file changes what it builds. */
const postgresRecipeVersion = 1;
const rootSizeBytes = 512 * 1024 * 1024;
const packages: readonly string[] = ["postgresql"];
const programs: readonly string[] = ["initdb", "pg_ctl", "postgres", "psql"];
const guestFiles: GuestFiles = [["postgres", "/usr/bin/lab-postgres"]];
const userLine = "postgres:x:70:70:postgres:/data:/bin/sh\n";
const lddTimeoutMs = 30_000;

/**
 * Builds the image where it is not cached; see ensureImage. Needs root, as unpacking keeps owners.
 * Errors: ToolMissing.
 */
export async function ensurePostgresImage(): Promise<string> {
  const distribution = await readDistribution();
  return ensureMiniImage({
    kind: "postgres",
    rootSizeBytes,
    recipe: {
      postgresRecipeVersion,
      packages,
      distribution,
      postgresFiles: await hashGuestFiles(guestFiles),
    },
    add: async (tree, scratch) => {
      await readTool("mmdebstrap", [
        "--quiet",
        "--variant=extract",
        `--components=${distribution.components}`,
        `--include=${packages.join(",")}`,
        "--format=directory",
        distribution.codename,
        scratch,
      ]);
      await addServer(tree, scratch);
      for (const [name, to] of guestFiles) await installFile(tree, guestFile(name), to);
    },
  });
}

/** Copies the server, what it reads, and the libraries that it is linked with. */
async function addServer(tree: string, unpacked: string): Promise<void> {
  const [version = ""] = await readdir(join(unpacked, "usr/lib/postgresql"));
  const home = join("usr/lib/postgresql", version);
  for (const name of programs) await installFrom(unpacked, tree, join(home, "bin", name));
  // Compiling queries just in time would bring a compiler along.
  const modules = await readdir(join(unpacked, home, "lib"));
  for (const name of modules.filter((each) => each.endsWith(".so") && !each.startsWith("llvm"))) {
    await installFrom(unpacked, tree, join(home, "lib", name));
  }
  for (const folder of ["usr/share/postgresql", "usr/share/zoneinfo"]) {
    await cp(join(unpacked, folder), join(tree, folder), { recursive: true });
  }
  await symlink(join("/", home, "bin/psql"), join(tree, "usr/bin/psql"));
  await appendFile(join(tree, "etc/passwd"), userLine);
  await appendFile(join(tree, "etc/group"), "postgres:x:70:\n");
  // Where the client looks for the server's socket.
  await symlink("/run", join(tree, "var/run"));
}

/** Copies a program or module of the packages, with its libraries from there. */
async function installFrom(unpacked: string, tree: string, path: string): Promise<void> {
  await mkdir(join(tree, path, ".."), { recursive: true });
  await installFile(tree, join(unpacked, path), join("/", path));
  const folders = await libraryFolders(unpacked);
  const { stdout } = await runTool("ldd", [join(unpacked, path)], {
    timeoutMs: lddTimeoutMs,
    env: { LD_LIBRARY_PATH: folders.join(":") },
  });
  for (const found of parseLibraries(stdout)) {
    if (!found.startsWith(`${unpacked}/`)) continue;
    await installFile(tree, found, found.slice(unpacked.length));
  }
}

/** Where the packages have libraries: the folders of the machine's own loader, below `unpacked`. */
async function libraryFolders(unpacked: string): Promise<readonly string[]> {
  const below = join(unpacked, "usr/lib");
  const names = (await readdir(below)).filter((name) => name.endsWith("-linux-gnu"));
  return names.flatMap((name) => [join(below, name), join(unpacked, "lib", name)]);
}
