/**
 * A machine that has never seen this repository: a minimal Debian or Ubuntu of this machine's
 * release, with nothing but its own (old) Node, npm and git, made by mmdebstrap.
 *
 * Programs in it run in a mount and process namespace of their own, so nothing is left mounted and
 * nothing left running, whatever happens. Needs root. Package sources and the npm registry are
 * those of this machine, read when it is made; no credentials are copied.
 */
import { copyFile, readdir, readFile, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { readToolLines } from "#drivers/process/tool-lines.ts";

import { selectSources } from "./package-sources.ts";

const makeTimeoutMs = 20 * 60_000;
const toolTimeoutMs = 120_000;
const packages = "nodejs,npm,git,ca-certificates";
const home = "/root";
/** Where the clone lies in the machine. */
const cloneFolder = join(home, "kluis");
const certificatesFile = "/etc/ssl/certs/fresh-machine.pem";

/** A machine made by {@link makeFreshMachine}. */
export interface FreshMachine {
  /** The folder that is its root. */
  readonly root: string;
  /** For example "Debian GNU/Linux 12 (bookworm), Node v18.20.4". */
  readonly description: string;
}

/** Makes a machine in the folder `root`, which must not exist; also writes `ROOT.sources`. */
export async function makeFreshMachine(root: string, signal: AbortSignal): Promise<FreshMachine> {
  const codename = releaseField(await readFile("/etc/os-release", "utf8"), "VERSION_CODENAME");
  const sources = `${root}.sources`;
  await writeFile(sources, selectSources(await readSourceFiles(), codename));
  const options = ["--quiet", "--mode=root", "--variant=minbase", `--include=${packages}`];
  const result = await runTool(
    "mmdebstrap",
    options.concat(await readAptOptions(signal), codename, root, sources),
    { timeoutMs: makeTimeoutMs, signal },
  );
  assertToolSucceeded("mmdebstrap", result);
  await copyFile("/etc/resolv.conf", join(root, "etc/resolv.conf"));
  // As Debian's installer writes it.
  await writeFile(join(root, "etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n");
  await configureNpm(root, signal);
  const node = await readOutput("chroot", [root, "node", "--version"], signal);
  const name = releaseField(await readFile(join(root, "etc/os-release"), "utf8"), "PRETTY_NAME");
  return { root, description: `${name}, Node ${node}` };
}

/** Clones the commit that is checked out in `repository` into the machine; returns its hash. */
export async function cloneInto(
  machine: FreshMachine,
  repository: string,
  signal: AbortSignal,
): Promise<string> {
  const target = join(machine.root, cloneFolder);
  await readOutput("git", ["clone", "--quiet", "--no-hardlinks", repository, target], signal);
  return await readOutput("git", ["-C", target, "rev-parse", "HEAD"], signal);
}

/**
 * Runs a shell line in the clone on the machine, as root, in a clean environment. Yields its
 * output by lines; throws ToolFailed after the last where it fails.
 */
export function runOn(
  machine: FreshMachine,
  line: string,
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): AsyncGenerator<string, void, undefined> {
  const script = [
    "set -e",
    "mount --make-rprivate /",
    // A root that is a mount, as on any machine.
    'mount --bind "$0" "$0"',
    'mount -t proc proc "$0/proc"',
    'mount --rbind /dev "$0/dev"',
    'mount --rbind /sys "$0/sys"',
    `exec chroot "$0" env -i HOME=${home} USER=root LANG=C.UTF-8 \\`,
    "  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\",
    `  sh -c 'exec 2>&1; cd ${cloneFolder} && eval "$0"' "$1"`,
  ].join("\n");
  const namespaces = ["--mount", "--pid", "--fork", "--kill-child=SIGKILL"];
  return readToolLines("unshare", [...namespaces, "sh", "-c", script, machine.root, line], options);
}

async function readSourceFiles(): Promise<readonly string[]> {
  const folder = "/etc/apt/sources.list.d";
  const parts = (await readdir(folder)).filter((name) => /\.(?:list|sources)$/.test(name));
  const paths = ["/etc/apt/sources.list", ...parts.map((name) => join(folder, name))];
  return Promise.all(
    paths.map(async (path) => {
      try {
        return await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
        throw error;
      }
    }),
  );
}

/** How this machine reaches its package sources: proxies and their certificates. */
async function readAptOptions(signal: AbortSignal): Promise<readonly string[]> {
  const dump = await readOutput("apt-config", ["dump", "Acquire"], signal);
  return dump
    .split("\n")
    .filter((line) => /^Acquire::https?::(?:Proxy|CaInfo) /i.test(line))
    .map((line) => `--aptopt=${line}`);
}

/** Lets the machine's npm use the registry that this machine's npm uses, without credentials. */
async function configureNpm(root: string, signal: AbortSignal): Promise<void> {
  const registry = new URL(await readOutput("npm", ["config", "get", "registry"], signal));
  registry.username = "";
  registry.password = "";
  const lines = [`registry=${registry.href}`];
  const certificates = await readOutput("npm", ["config", "get", "cafile"], signal);
  if (certificates.startsWith("/")) {
    await copyFile(certificates, join(root, certificatesFile));
    lines.push(`cafile=${certificatesFile}`);
  }
  await writeFile(join(root, home, ".npmrc"), `${lines.join("\n")}\n`);
}

async function readOutput(
  command: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  const env = { HOME: homedir() };
  const result = await runTool(command, args, { timeoutMs: toolTimeoutMs, signal, env });
  assertToolSucceeded(command, result);
  return result.stdout.trim();
}

function releaseField(text: string, field: string): string {
  const value = new RegExp(`^${field}="?([^"\\n]*)"?$`, "m").exec(text)?.[1];
  if (value === undefined) throw new Error(`Cannot read os-release: ${field} is missing`);
  return value;
}
