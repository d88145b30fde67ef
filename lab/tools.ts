/** Runs the programs that build and inspect lab guests. */
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

/** Far above what any step takes; a debootstrap on a slow line is the longest. */
const toolTimeoutMs = 20 * 60 * 1000;

/** Where a program runs. */
export interface ToolPlace {
  readonly cwd?: string;
  readonly signal?: AbortSignal;
}

/**
 * Runs `program` to its end and returns what it printed. Errors: ToolMissing names the package,
 * ToolFailed where it exits with another code than 0.
 */
export async function readTool(
  program: string,
  args: readonly string[],
  place: ToolPlace = {},
): Promise<string> {
  const result = await runTool(program, args, {
    timeoutMs: toolTimeoutMs,
    dieWithParent: true,
    ...place,
  });
  assertToolSucceeded(program, result);
  return result.stdout;
}
