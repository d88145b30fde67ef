/** Reads the output of a program line by line while it runs, in bounded memory. */
import type { Readable } from "node:stream";

import { startChild } from "./child.ts";
import { guardChild, lastLine, TOOL_STDERR_BYTES_MAX, toolFailed } from "./run-tool.ts";
import type { ToolOptions } from "./run-tool.ts";

/** Longest line that is read. */
export const TOOL_LINE_BYTES_MAX = 1024 * 1024;

/** How {@link readToolLines} runs a program. */
export type ToolLinesOptions = Pick<ToolOptions, "timeoutMs" | "signal" | "clock">;

/**
 * The lines that `command` prints, without their ends. The program waits while the caller does,
 * and is ended when the caller stops early.
 *
 * Errors: ToolMissing (after-change); ToolFailed (backoff) on an exit code other than 0 (with the
 * last line of standard error), on timeout and on a line that is too long. An error comes after
 * the last line.
 */
export async function* readToolLines(
  command: string,
  args: readonly string[],
  options: ToolLinesOptions,
): AsyncGenerator<string, void, undefined> {
  options.signal?.throwIfAborted();
  const child = await startChild(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    dieWithParent: true,
  });
  const guard = guardChild(child, command, options);
  let stderr = "";
  child.process.stderr?.on("data", (chunk: Buffer) => {
    stderr = (stderr + chunk.toString("utf8")).slice(-TOOL_STDERR_BYTES_MAX);
  });
  let complete = false;
  try {
    yield* splitLines(child.process.stdout as Readable, command);
    complete = true;
  } finally {
    if (!complete) guard.fail(toolFailed(command, "its output was not wanted any more"));
    await child.exited;
    await guard.done();
  }
  guard.throwIfFailed();
  const status = await child.exited;
  if (status.code === 0) return;
  throw toolFailed(
    command,
    lastLine(stderr) ?? `exit ${String(status.code ?? status.signal ?? "")}`,
  );
}

async function* splitLines(stream: Readable, command: string): AsyncGenerator<string, void> {
  let rest = "";
  stream.setEncoding("utf8");
  for await (const chunk of stream as AsyncIterable<string>) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    if (rest.length > TOOL_LINE_BYTES_MAX) throw toolFailed(command, "it printed a line too long");
    yield* lines;
  }
  if (rest !== "") yield rest;
}
