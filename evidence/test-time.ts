/** Times all tests of this checkout, real VMs and all. */
import { runTool } from "#drivers/process/run-tool.ts";

import type { Evidence } from "../tools/evidence/evidence.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

const minutesMost = 25;
const timeoutMs = 90 * 60_000;

/** Where everything is set up already; two-commands is about a fresh machine. */
export const evidence: Evidence = {
  name: "test-time",
  claim: "all tests, with real VMs, take less time than a lunch",
  bar: `pass in ≤ ${minutesMost} minutes`,
  run: async ({ signal }) => {
    const startMs = performance.now();
    const result = await runTool(process.execPath, ["scripts/test.ts", "all"], {
      timeoutMs,
      signal,
      cwd: repositoryRoot,
      env: { HOME: process.env["HOME"] ?? repositoryRoot },
    });
    const minutes = (performance.now() - startMs) / 60_000;
    const passed = /^ℹ pass (\d+)$/m.exec(result.stdout)?.[1] ?? "no";
    const figure = `${passed} tests passed in ${minutes.toFixed(1)} minutes, exit ${result.exitCode}`;
    return { figure, holds: result.exitCode === 0 && minutes <= minutesMost };
  },
};
