/** Where Kluis keeps files of its own on this host. */
import { homedir, tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";

/** Folders that hold nothing that cannot be lost, and the state of VMs. */
export interface Folders {
  /** Indexes and compiled code: only saves time. */
  readonly cache: string;
  /** What the drivers of VMs know, keys of this host, and what it remembers of vaults. */
  readonly state: string;
}

/** As the XDG base directory specification says; root's state is the host's. KLUIS_STATE goes before all. */
export function readFolders(variables: Readonly<Record<string, string | undefined>>): Folders {
  const home = variables["HOME"] ?? homedir();
  const base = isAbsolute(home) ? home : tmpdir();
  const isRoot = process.getuid?.() === 0;
  const usual = isRoot
    ? "/var/lib/kluis"
    : join(absolute(variables["XDG_STATE_HOME"]) ?? join(base, ".local/state"), "kluis");
  return {
    state: absolute(variables["KLUIS_STATE"]) ?? usual,
    cache: join(absolute(variables["XDG_CACHE_HOME"]) ?? join(base, ".cache"), "kluis"),
  };
}

/** The specification says to ignore relative paths. */
function absolute(path: string | undefined): string | undefined {
  return path !== undefined && isAbsolute(path) ? path : undefined;
}
