/** Runs test files as evidence: how many passed, and what they said of themselves. */
import { join } from "node:path";

import { runTool } from "#drivers/process/run-tool.ts";

import { repositoryRoot } from "../tidy/source-files.ts";
import type { EvidenceContext, EvidenceOutcome } from "./evidence.ts";

const timeoutMs = 60 * 60_000;

/** What a run of test files came to. */
export interface TestRun {
  readonly passed: number;
  readonly failed: number;
  /** Everything that was printed, line by line, without node:test's marks. */
  readonly lines: readonly string[];
}

/**
 * Runs test files, one after the other.
 *
 * @param files Paths from the repository's root.
 * @param setting Of the environment, beside what is there.
 */
export async function runTestFiles(
  files: readonly string[],
  context: EvidenceContext,
  setting: Readonly<Record<string, string>> = {},
): Promise<TestRun> {
  const args = ["--test", "--test-concurrency=1", "--test-reporter=spec"];
  const result = await runTool(
    process.execPath,
    [...args, ...files.map((file) => join(repositoryRoot, file))],
    {
      timeoutMs,
      signal: context.signal,
      cwd: repositoryRoot,
      env: { ...environment(), ...setting },
    },
  );
  const lines = result.stdout.split("\n").map((line) => line.replace(/^\s*[ℹ﹣✔✖]?\s*/u, ""));
  const count = (name: string): number =>
    Number(lines.findLast((line) => line.startsWith(`${name} `))?.slice(name.length) ?? Number.NaN);
  const failed = result.exitCode === 0 ? count("fail") : Math.max(1, count("fail"));
  if (failed > 0) for (const line of lines) if (line !== "") context.log(line);
  return { passed: count("pass"), failed, lines };
}

/** The outcome of a run whose claim holds when every test passes; `figure` says what was covered. */
export function toOutcome(run: TestRun, figure: string): EvidenceOutcome {
  const holds = run.failed === 0 && run.passed > 0;
  return { figure: `${run.passed} tests passed, ${run.failed} failed; ${figure}`, holds };
}

/** What the tests may see of the environment: where programs are, and how long to go on; every case runs. */
function environment(): Record<string, string> {
  const names = ["PATH", "HOME", "TMPDIR", "KLUIS_LONG", "KLUIS_SEED"];
  const given = Object.fromEntries(
    names.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
  return { ...given, KLUIS_WHOLE: "1" };
}
