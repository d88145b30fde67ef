/** Where Kluis keeps files of its own on this host. */
import { homedir, tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";

/** Folders that hold nothing that cannot be lost, and the state of VMs. */
export interface Folders {
  /** Indexes and compiled code: only saves time. */
  readonly cache: string;
  /** What the drivers of VMs know: layers and snapshots. */
  readonly state: string;
}

/** As the XDG base directory specification says; root's state of VMs is the host's. */
export function readFolders(variables: Readonly<Record<string, string | undefined>>): Folders {
  const home = variables["HOME"] ?? homedir();
  const base = isAbsolute(home) ? home : tmpdir();
  const isRoot = process.getuid?.() === 0;
  const state = isRoot
    ? "/var/lib/kluis"
    : join(absolute(variables["XDG_STATE_HOME"]) ?? join(base, ".local/state"), "kluis");
  return {
    cache: join(absolute(variables["XDG_CACHE_HOME"]) ?? join(base, ".cache"), "kluis"),
    state,
  };
}

/** The specification says to ignore relative paths. */
function absolute(path: string | undefined): string | undefined {
  return path !== undefined && isAbsolute(path) ? path : undefined;
}
