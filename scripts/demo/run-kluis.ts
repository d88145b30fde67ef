/** Runs the `kluis` command as a user does: as a process of its own on this terminal. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join, relative } from "node:path";
import { promisify } from "node:util";

import type { PointOutput, PointsOutput } from "#contract/cli-output.ts";
import { repositoryRoot } from "../../tools/tidy/source-files.ts";
import { type Story, timed } from "./story.ts";

const launcher = `${repositoryRoot}/bin/kluis.mjs`;
/** Lists of recovery points are short; this is far above. */
const outputBytesMax = 16 * 1024 * 1024;

/** Shows the command, runs it with its own progress and output, and returns its time. */
export async function runKluis(
  story: Story,
  folder: string,
  words: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  story.command(["kluis", ...words.map((word) => shorten(word, folder))].join(" "));
  const { timeMs } = await timed(async () => {
    const child = spawn(process.execPath, [launcher, ...words], {
      stdio: ["ignore", "inherit", "inherit"],
      ...placeOf(folder),
    });
    // Ctrl-C of a terminal reaches the child by itself; anything else is passed on.
    const onAbort = (): void => void child.kill("SIGTERM");
    signal.addEventListener("abort", onAbort);
    const [code] = (await once(child, "exit")) as [number | null];
    signal.removeEventListener("abort", onAbort);
    signal.throwIfAborted();
    if (code !== 0)
      throw new Error(`kluis ${words.slice(0, 2).join(" ")} ended with ${code ?? "a signal"}`);
  });
  return timeMs;
}

/** The recovery points of a vault, oldest first. */
export async function readPoints(
  folder: string,
  words: readonly string[],
): Promise<readonly PointOutput[]> {
  const args = [launcher, "image", "list", ...words, "--output", "json"];
  const options = { ...placeOf(folder), maxBuffer: outputBytesMax };
  const { stdout } = await promisify(execFile)(process.execPath, args, options);
  return (JSON.parse(stdout) as PointsOutput).points;
}

/** The host that runs the demo keeps nothing of it. */
function placeOf(folder: string): { readonly cwd: string; readonly env: NodeJS.ProcessEnv } {
  return { cwd: folder, env: { ...process.env, KLUIS_STATE: join(folder, "state") } };
}

function shorten(word: string, folder: string): string {
  return word.startsWith(`${folder}/`) ? relative(folder, word) : word;
}
