/** The program that Kluis puts into guests, and what became of running it; the same for every system. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import type { GuestProgramResult } from "./guest-commands.ts";

/** Longest text of the guest that a message repeats. */
export const SAID_CHARACTERS_MAX = 500;

/** A program as this Kluis brings it. */
export interface ExtensionProgram {
  readonly bytes: Uint8Array;
  /** SHA-256 in hexadecimal. */
  readonly hash: string;
}

/** The program in the file beside Kluis' own; read once, when it is first asked for. */
export function loadExtensionProgram(file: URL): () => Promise<ExtensionProgram> {
  let program: Promise<ExtensionProgram> | undefined;
  return () => {
    program ??= readProgram(file);
    return program;
  };
}

async function readProgram(file: URL): Promise<ExtensionProgram> {
  const bytes = await readFile(file);
  return { bytes, hash: createHash("sha256").update(bytes).digest("hex") };
}

/**
 * Errors: AgentFailed (backoff) where a program of the guest ended with an exit code other than 0, with
 * what it said, or with `words` where they say more.
 */
export function assertProgramDone(result: GuestProgramResult, what: string, words?: string): void {
  if (result.exitCode === 0) return;
  const said = `${result.stdout} ${result.stderr}`.trim().slice(0, SAID_CHARACTERS_MAX);
  const reason = words ?? (said === "" ? `exit ${String(result.exitCode)}` : said);
  throw new KluisError("AgentFailed", `Cannot ${what}: ${reason}`);
}

/** With this a program says before it does anything that the guest has none, or another one. */
export const NOT_CURRENT_EXIT = 90;

/** Runs the program of the guest; where that is not the one that Kluis brings, puts it there and runs it once more. */
export async function runCurrentProgram(
  run: () => Promise<GuestProgramResult>,
  install: () => Promise<void>,
): Promise<GuestProgramResult> {
  const result = await run();
  if (result.exitCode !== NOT_CURRENT_EXIT) return result;
  await install();
  return await run();
}
