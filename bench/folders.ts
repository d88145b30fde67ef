/** Where benchmarks keep what they make. */
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the repository. */
export const repositoryFolder = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Workloads, figures and what a run needs for its time; may be removed at any time. */
export const benchFolder = join(repositoryFolder, ".cache/bench");

/**
 * Gives `work` an empty folder on the file system of the repository, and removes it afterwards, with
 * those that killed runs left behind.
 */
export async function withRunFolder<T>(
  name: string,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = join(benchFolder, `run-${name}-${process.pid}`);
  await mkdir(folder, { recursive: true });
  await removeAbandoned();
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(benchFolder)) {
    const pid = /^run-[a-z-]+-(\d+)$/.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    await rm(join(benchFolder, name), { recursive: true, force: true });
  }
}
