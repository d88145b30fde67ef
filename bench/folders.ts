/** Where benchmarks keep what they make. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the repository. */
export const repositoryFolder = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Workloads, figures and what a run needs for its time; may be removed at any time. */
export const benchFolder = join(repositoryFolder, ".cache/bench");

/**
 * Gives `work` an empty folder on the file system of the repository, and removes it afterwards; one
 * run of a name at a time.
 */
export async function withRunFolder<T>(
  name: string,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = join(benchFolder, `run-${name}`);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
