/** Runs the real `kluis` as a process of its own, in a folder and an environment of the test. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

import { errorRegistry, type ErrorCode } from "#base/error-codes.ts";
import type { BackupOutput, ErrorOutput, PointsOutput } from "#contract/cli-output.ts";
import { createTempFolder } from "#testing/temp-folder.ts";

const launcher = new URL("../../bin/kluis.mjs", import.meta.url).pathname;
/** A command of these tests takes seconds; a machine under load takes longer. */
const timeoutMs = 180_000;

/** How a command ended. */
export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What differs from a plain call. */
export interface CliCall {
  readonly variables?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** Program and arguments that the command is put behind, for example `unshare`. */
  readonly behind?: readonly string[];
}

/** Code that the run of the tests has compiled; else each world would compile its own. */
const { NODE_COMPILE_CACHE } = process.env;
const compiledCode = NODE_COMPILE_CACHE === undefined ? {} : { NODE_COMPILE_CACHE };

/** A folder with a vault, and the command. */
export interface CliWorld extends AsyncDisposable {
  readonly path: string;
  /** `--store` and `--key-file` of the vault that {@link createWorld} made. */
  readonly vault: readonly string[];
  readonly recoveryKeyFile: string;
  at(name: string): string;
  run(words: readonly string[], call?: CliCall): Promise<CliResult>;
  /** Runs a command that must succeed. */
  ok(words: readonly string[], call?: CliCall): Promise<CliResult>;
  /** Runs a command that must succeed with `--output json`. */
  json<T>(words: readonly string[], call?: CliCall): Promise<T>;
  backup(image: string, words?: readonly string[]): Promise<BackupOutput>;
  points(): Promise<PointsOutput>;
  start(words: readonly string[], call?: CliCall): ChildProcess;
}

/** Makes a world; disposing it removes the folder. */
export async function createWorld(
  options: { readonly withVault?: boolean } = {},
): Promise<CliWorld> {
  const folder = await createTempFolder();
  const at = (name: string): string => join(folder.path, name);
  const vault = ["--store", at("vault"), "--key-file", at("key")];
  const start = (words: readonly string[], call: CliCall = {}): ChildProcess => {
    const [program = process.execPath, ...before] = [
      ...(call.behind ?? []),
      process.execPath,
      launcher,
      ...words,
    ];
    return spawn(program, before, {
      cwd: folder.path,
      stdio: "pipe",
      env: {
        PATH: process.env["PATH"],
        HOME: folder.path,
        KLUIS_STATE: join(folder.path, "state"),
        LANG: "C",
        ...compiledCode,
        ...call.variables,
      },
    });
  };
  const run = (words: readonly string[], call: CliCall = {}): Promise<CliResult> =>
    collect(start(words, call), call.stdin);
  const ok = async (words: readonly string[], call?: CliCall): Promise<CliResult> => {
    const result = await run(words, call);
    assert.equal(result.code, 0, `kluis ${words.join(" ")}\n${result.stderr}${result.stdout}`);
    return result;
  };
  const json = async <T>(words: readonly string[], call?: CliCall): Promise<T> =>
    JSON.parse((await ok([...words, "--output", "json"], call)).stdout) as T;
  const recoveryKeyFile = at("recovery-key");
  if (options.withVault !== false) {
    await ok(["vault", "create", ...vault, "--recovery-key-file", recoveryKeyFile]);
  }
  return {
    path: folder.path,
    vault,
    recoveryKeyFile,
    at,
    run,
    ok,
    json,
    backup: (image, words = []) =>
      json<BackupOutput>(["image", "backup", image, ...vault, ...words]),
    points: () => json<PointsOutput>(["image", "list", ...vault]),
    start,
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

/** Waits for the end of a command and collects what it printed. */
export async function collect(child: ChildProcess, stdin = ""): Promise<CliResult> {
  let stdout = "";
  let stderr = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(stdin);
  const limit = AbortSignal.timeout(timeoutMs);
  const onLimit = (): void => void child.kill("SIGKILL");
  limit.addEventListener("abort", onLimit);
  const [code] = (await once(child, "close")) as [number | null];
  limit.removeEventListener("abort", onLimit);
  return { code: code ?? -1, stdout, stderr };
}

/**
 * Asserts that a command failed with a code of the registry: its exit code, one message, what to do,
 * no stack and nothing else.
 */
export function assertFailure(result: CliResult, code: ErrorCode, reason: RegExp): void {
  const { exit, action } = errorRegistry[code];
  const shown = `${result.stderr}${result.stdout}`;
  assert.equal(result.code, exit, shown);
  const [first = "", second = "", ...rest] = result.stderr.trimEnd().split("\n").slice(-2);
  assert.match(first, /^Error: Cannot .*[^.] \([A-Za-z]+\)$/, shown);
  assert.ok(first.endsWith(` (${code})`), shown);
  assert.match(first, reason, shown);
  assert.equal(second, `What to do: ${action}`, shown);
  assert.deepEqual(rest, []);
  assert.doesNotMatch(shown, /\n\s+at |node:internal|\.ts:\d+/, shown);
  assert.equal(result.stdout, "");
}

/** The error of a command that was asked for JSON. */
export function parseError(result: CliResult): ErrorOutput {
  return JSON.parse(result.stderr) as ErrorOutput;
}
