/** Folders of test VMs: what runs in one names it in its arguments, and goes with its owner. */
import { readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { readProcessIdentity, stopProcess } from "#drivers/process/process-identity.ts";

const stopGraceMs = 500;
/** Followed by the pid of the owner. */
export const labFolderPrefix = "kluis-lab-vm-";

/** Done once in a process, before its first VM. */
let swept: Promise<void> | undefined;

/** Removes VMs whose owner was killed before it could dispose of them. */
export async function sweepAbandonedOnce(): Promise<void> {
  swept ??= sweepAbandoned();
  await swept;
}

async function sweepAbandoned(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const owner = new RegExp(`^${labFolderPrefix}(\\d+)-`, "u").exec(name)?.[1];
    if (owner === undefined || (await readProcessIdentity(Number(owner))) !== undefined) continue;
    const directory = join(tmpdir(), name);
    await stopProcessesOf(directory);
    await rm(directory, { recursive: true, force: true });
  }
}

/** Ends every process with `directory` in its arguments; its random name is in no other process. */
export async function stopProcessesOf(directory: string): Promise<void> {
  const name = basename(directory);
  for (const entry of await readdir("/proc")) {
    const pid = Number(entry);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    const identity = await readProcessIdentity(pid);
    if (identity === undefined || !(await readCommandLine(pid)).includes(name)) continue;
    await stopProcess(identity, { graceMs: stopGraceMs });
  }
}

/** The arguments of a process; empty where it has ended meanwhile. */
async function readCommandLine(pid: number): Promise<string> {
  try {
    return await readFile(`/proc/${String(pid)}/cmdline`, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH") return "";
    throw error;
  }
}
