/** Whether a program restored what it backed up. */
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

const compareTimeoutMs = 10 * 60_000;

/** Throws unless the one file below `target` holds what is in `expected`. */
export async function assertRestored(
  program: string,
  places: { readonly target: string; readonly expected: string },
  signal: AbortSignal,
): Promise<void> {
  const { target, expected } = places;
  const options = { timeoutMs: compareTimeoutMs, signal };
  const found = await runTool("find", [target, "-type", "f"], options);
  assertToolSucceeded("find", found);
  const files = found.stdout.trim().split("\n");
  const [file] = files;
  if (files.length !== 1 || file === undefined || file === "") {
    throw new Error(`Cannot compare what ${program} restored: it wrote ${files.length} files`);
  }
  const compared = await runTool("cmp", [file, expected], options);
  if (compared.exitCode === 0) return;
  throw new Error(`${program} restored something else than it backed up: ${compared.stdout}`);
}
