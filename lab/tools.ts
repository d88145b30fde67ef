/** Runs the programs that build and inspect lab guests. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { KluisError } from "#base/kluis-error.ts";

const execute = promisify(execFile);

/** Longest output kept of one program. */
const outputLimitBytes = 16 * 1024 * 1024;
/** How much of a failed program's output goes into the message. */
const messageLimitChars = 2000;

/** How a program is run. */
export interface ToolOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Debian package that brings the program; named when it is missing. */
  readonly debianPackage?: string;
}

interface FailedRun {
  readonly code?: string | number;
  readonly stdout?: string;
  readonly stderr?: string;
}

/**
 * Runs `program` to its end and returns what it printed. Errors: ToolMissing where it is not
 * installed, Internal with the end of its output where it failed.
 */
export async function runTool(
  program: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<string> {
  const path = `${process.env["PATH"] ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`;
  try {
    const { stdout } = await execute(program, [...args], {
      encoding: "utf8",
      maxBuffer: outputLimitBytes,
      env: { ...process.env, LC_ALL: "C", PATH: path, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    return stdout;
  } catch (error) {
    throw toToolError(program, args, options, error as FailedRun);
  }
}

function toToolError(
  program: string,
  args: readonly string[],
  options: ToolOptions,
  failed: FailedRun,
): KluisError {
  if (failed.code === "ENOENT") {
    const name = options.debianPackage ?? program;
    return new KluisError("ToolMissing", `Cannot run "${program}": install the package ${name}`, {
      details: { package: name },
      cause: failed,
    });
  }
  const said = `${failed.stderr ?? ""}${failed.stdout ?? ""}`.trim().slice(-messageLimitChars);
  return new KluisError(
    "Internal",
    `Cannot run "${program} ${args.join(" ")}": exit ${String(failed.code)}: ${said}`,
    { cause: failed },
  );
}
