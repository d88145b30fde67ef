/** Gives a command line the process: streams, signals, environment, drivers. */
import { readFileSync } from "node:fs";

import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import type { CliEnvironment, OutputStream, Terminal } from "#cli/environment.ts";
import { runCommandLine } from "#cli/main.ts";

import { createDrivers, createSecretFiles } from "./drivers.ts";
import type { Folders } from "./folders.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs the words of a command line; returns the exit code when all has ended and everything is
 * written, so that the process may be ended at once.
 */
export async function runProcess(words: readonly string[], folders: Folders): Promise<number> {
  const terminal = createTerminal(process.env);
  const cancel = listenForSignals(terminal);
  const passphrase = process.env["KLUIS_PASSPHRASE"];
  const environment: CliEnvironment = {
    version: readVersion(),
    clock: systemClock,
    random: systemRandom,
    signal: cancel,
    terminal,
    secrets: createSecretFiles(cancel),
    drivers: createDrivers({
      workingFolder: process.cwd(),
      variables: process.env,
      signal: cancel,
    }),
    workingFolder: process.cwd(),
    cacheFolder: folders.cache,
    stateFolder: folders.state,
    isDebug: process.env["KLUIS_DEBUG"] === "1",
    ...(passphrase === undefined || passphrase === "" ? {} : { passphrase }),
  };
  const exitCode = await runCommandLine(words, environment);
  await Promise.all([process.stdout, process.stderr].map(untilWritten));
  return exitCode;
}

/** Resolves when a pipe has taken all that was written to it, or nobody reads it any more. */
function untilWritten(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.write("", () => resolve());
  });
}

/**
 * The first signal cancels; further ones are ignored, because what runs then is what thaws a guest
 * and removes what is half done.
 */
function listenForSignals(terminal: Terminal): AbortSignal {
  const controller = new AbortController();
  for (const signal of signals) {
    process.on(signal, () => {
      if (controller.signal.aborted) return;
      terminal.errors.write("Stopping; guests are thawed and nothing half done is left …\n");
      const by = signal === "SIGINT" ? "Ctrl-C" : signal;
      controller.abort(new KluisError("Cancelled", `Cannot finish: cancelled by ${by}`));
    });
  }
  return controller.signal;
}

function createTerminal(variables: NodeJS.ProcessEnv): Terminal {
  const locale = variables["LC_ALL"] || variables["LC_CTYPE"] || variables["LANG"] || "";
  return {
    output: createStream(process.stdout),
    errors: createStream(process.stderr),
    isUnicode: /utf-?8/i.test(locale),
  };
}

function createStream(stream: NodeJS.WriteStream): OutputStream {
  let isOpen = true;
  // Whoever read it (`| head`) has gone; the work goes on.
  stream.on("error", () => {
    isOpen = false;
  });
  return {
    write: (text) => {
      if (isOpen) stream.write(text);
    },
    isTerminal: stream.isTTY,
    // 0 where the terminal does not know its size.
    columns: () => stream.columns || 80,
  };
}

function readVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { readonly version: string }).version;
}
