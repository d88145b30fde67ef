/** Tells a person or a script what went wrong and what to do. */
import { isKluisError, type KluisError, toKluisError } from "#base/kluis-error.ts";
import { outputFormat, type ErrorOutput } from "#contract/cli-output.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { printable } from "#cli/format.ts";

/**
 * Writes one message to the error stream and returns the exit code. Causes and stacks go there only
 * with KLUIS_DEBUG=1.
 */
export function reportError(
  error: unknown,
  environment: Pick<CliEnvironment, "terminal" | "signal" | "isDebug">,
  form: "table" | "json",
): number {
  const { terminal, isDebug } = environment;
  const known = classify(error, environment.signal);
  const { entry } = known;
  if (isDebug) terminal.errors.write(`${describeStacks(error)}\n`);
  if (form === "json") {
    terminal.errors.write(`${JSON.stringify(toErrorOutput(known))}\n`);
    return entry.exit;
  }
  terminal.errors.write(
    `Error: ${printable(known.message)} (${known.code})\nWhat to do: ${entry.action}\n`,
  );
  return entry.exit;
}

/** An abort by the user is Cancelled, whatever it broke on its way. */
function classify(error: unknown, signal: AbortSignal): KluisError {
  if (signal.aborted && isKluisError(signal.reason)) {
    if (error === signal.reason || !isKluisError(error) || isKluisError(error, "Cancelled")) {
      return signal.reason;
    }
  }
  return toKluisError(error);
}

function toErrorOutput(error: KluisError): ErrorOutput {
  const { code, message, details, entry } = error;
  return {
    format: outputFormat,
    kind: "error",
    code,
    message,
    action: entry.action,
    retry: entry.retry,
    exit: entry.exit,
    details,
  };
}

function describeStacks(error: unknown): string {
  const parts: string[] = [];
  let current = error;
  for (let depth = 0; depth < 8 && current instanceof Error; depth++) {
    parts.push(current.stack ?? current.message);
    current = current.cause;
  }
  return parts.join("\ncaused by: ");
}
