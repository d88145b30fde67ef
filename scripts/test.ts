/**
 * Runs tests: `node scripts/test.ts all|long|GROUP… [-- PATH-PART…]`.
 *
 * `all` is every group of tools/runner/groups.ts; `long` is the same with KLUIS_LONG=1, which lets
 * random tests run for longer. Ends with the summary of node:test and exits 0 only if at least one
 * test ran and all of them passed.
 */
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { spec, type TestEvent } from "node:test/reporters";

import { planStages, testGroups } from "../tools/runner/groups.ts";
import { StagedRun } from "../tools/runner/run-stages.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

const fileTimeoutMs = 15 * 60_000;
const fileTimeoutLongMs = 4 * 3_600_000;
/** What a whole run may take on two cores. */
const budgetMs = 25 * 60_000;

interface Request {
  readonly groups: readonly string[];
  readonly filters: readonly string[];
  readonly isLong: boolean;
}

function parseRequest(words: readonly string[]): Request | undefined {
  const known = testGroups.map((group) => group.name);
  const [mode = "", ...rest] = words;
  const filters = rest.filter((word) => word !== "--" && !known.includes(word));
  if (mode === "all" || mode === "long") {
    return { groups: known, filters, isLong: mode === "long" };
  }
  if (!known.includes(mode)) return undefined;
  const groups = [mode, ...rest.filter((word) => known.includes(word))];
  return { groups, filters, isLong: false };
}

function listTests(): readonly string[] {
  return ["src", "tools", "scripts", "bench", "lab", "evidence", "test"].flatMap((folder) =>
    listFolder(folder),
  );
}

function listFolder(folder: string): readonly string[] {
  try {
    return readdirSync(`${repositoryRoot}/${folder}`, { recursive: true, encoding: "utf8" })
      .filter((path) => path.endsWith(".test.ts"))
      .map((path) => `${folder}/${path}`)
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function report(events: AsyncIterable<TestEvent> | Iterable<TestEvent>): Promise<void> {
  const reporter = Readable.from(events).pipe(new spec());
  reporter.pipe(process.stdout);
  await once(reporter, "end");
}

async function main(): Promise<number> {
  const request = parseRequest(process.argv.slice(2));
  if (request === undefined) {
    const names = testGroups.map((group) => group.name).join("|");
    console.error(`Usage: node scripts/test.ts all|long|${names} [PATH-PART…]`);
    return 2;
  }
  if (request.isLong) process.env["KLUIS_LONG"] = "1";
  // A run is thousands of processes and threads; to strip and compile the sources takes each 0.3 s.
  process.env["NODE_COMPILE_CACHE"] ??= join(repositoryRoot, "node_modules/.cache/compiled");
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      interrupted.abort();
    });
  }
  const staged = new StagedRun({
    root: repositoryRoot,
    stages: planStages({ ...request, paths: listTests(), cores: availableParallelism() }),
    fileTimeoutMs: request.isLong ? fileTimeoutLongMs : fileTimeoutMs,
    signal: interrupted.signal,
  });
  await report(staged.events());
  if (staged.result.durationMs > budgetMs && !request.isLong) {
    console.log(`The run took longer than its budget of ${budgetMs / 60_000} minutes`);
  }
  await report(staged.closing());
  return staged.isGood ? 0 : 1;
}

process.exitCode = await main();
