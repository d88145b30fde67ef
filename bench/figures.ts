/** Files of measured figures in .cache/bench, each stamped with what it was measured of. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, hostname, release } from "node:os";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { isErrnoException } from "./errno.ts";
import { benchFolder, repositoryFolder } from "./folders.ts";

/** What decides about figures: the product, the benchmarks, the packages. */
const measuredPlaces = ["bin", "src", "bench", "package-lock.json"];
const gitTimeoutMs = 60_000;

/** When, where and of what figures were measured. */
export interface Stamp {
  readonly measuredAtMs: number;
  readonly commit: string;
  /** Of every file below `bin`, `src` and `bench`, and of the lock file: also of what is not committed. */
  readonly sourceSha256: string;
  readonly host: string;
  /** Processor, cores, kernel, Node; for people. */
  readonly machine: string;
  readonly cores: number;
}

/** Figures of one run. */
export interface Stamped<Figures> {
  readonly stamp: Stamp;
  readonly figures: Figures;
}

/** The stamp of a run that starts now. */
export async function createStamp(signal: AbortSignal): Promise<Stamp> {
  const git = await runTool("git", ["-C", repositoryFolder, "rev-parse", "HEAD"], {
    timeoutMs: gitTimeoutMs,
    signal,
  });
  assertToolSucceeded("git", git);
  const cores = availableParallelism();
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  return {
    measuredAtMs: Date.now(),
    commit: git.stdout.trim(),
    sourceSha256: await hashSources(),
    host: hostname(),
    machine: `${model}, ${cores} cores, Linux ${release()}, Node ${process.versions.node}`,
    cores,
  };
}

/**
 * Keeps figures under a name and returns the path of their file. Those of a try, with other sizes or
 * fewer runs than the bars want, get a name of their own.
 */
export async function writeFigures<T>(
  name: string,
  stamped: Stamped<T>,
  kind: "whole" | "try",
): Promise<string> {
  await mkdir(benchFolder, { recursive: true });
  const path = figuresPath(kind === "whole" ? name : `${name}-try`);
  const draft = `${path}.${process.pid}.tmp`;
  await writeFile(draft, `${JSON.stringify(stamped, undefined, 2)}\n`);
  await rename(draft, path);
  return path;
}

/** The newest figures of a name; `undefined` where there are none. */
export async function readFigures<T>(name: string): Promise<Stamped<T> | undefined> {
  try {
    return JSON.parse(await readFile(figuresPath(name), "utf8")) as Stamped<T>;
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}

/**
 * The figures of a name if they were measured on this machine, of the very files that are there
 * now, at most `ageMaxMs` ago; else `undefined`.
 */
export async function readFreshFigures<T>(
  name: string,
  ageMaxMs: number,
  signal: AbortSignal,
): Promise<Stamped<T> | undefined> {
  const kept = await readFigures<T>(name);
  if (kept === undefined) return undefined;
  const now = await createStamp(signal);
  const ageMs = now.measuredAtMs - kept.stamp.measuredAtMs;
  const isSame =
    kept.stamp.sourceSha256 === now.sourceSha256 &&
    kept.stamp.host === now.host &&
    kept.stamp.machine === now.machine;
  return isSame && ageMs >= 0 && ageMs <= ageMaxMs ? kept : undefined;
}

/** A stamp in words, without a full stop. */
export function describeStamp({ measuredAtMs, commit, machine }: Stamp): string {
  const when = new Date(measuredAtMs).toISOString().slice(0, "YYYY-MM-DD".length);
  return `Measured ${when} at commit ${commit.slice(0, 12)} on ${machine}`;
}

function figuresPath(name: string): string {
  return join(benchFolder, `${name}.json`);
}

async function hashSources(): Promise<string> {
  const hash = createHash("sha256");
  for (const place of measuredPlaces) {
    for (const path of await listFiles(place)) {
      const content = await readFile(join(repositoryFolder, path));
      hash.update(`${path}\0${content.byteLength}\0`).update(content);
    }
  }
  return hash.digest("hex");
}

async function listFiles(place: string): Promise<readonly string[]> {
  if (place.includes(".")) return [place];
  const entries = await readdir(join(repositoryFolder, place), {
    recursive: true,
    withFileTypes: true,
  });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(repositoryFolder.length + 1))
    .filter((path) => !path.endsWith(".test.ts"))
    .sort();
}
