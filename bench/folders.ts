/** Where benchmarks keep what they make. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the repository. */
export const repositoryFolder = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Workloads, figures and what a run needs for its time; may be removed at any time. */
export const benchFolder = join(repositoryFolder, ".cache/bench");
