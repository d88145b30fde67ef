/** Runs one command line from its words to its exit code. */
import { selectEntries } from "#cli/command-table.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { parseCommandLine } from "#cli/parse-command-line.ts";
import { reportError } from "#cli/report-error.ts";

/**
 * Runs `words` (without program names) and returns the exit code of the process. Everything that
 * goes wrong is told on the error stream; nothing is thrown.
 */
export async function runCommandLine(
  words: readonly string[],
  environment: CliEnvironment,
): Promise<number> {
  try {
    const specs = await Promise.all(selectEntries(words).map((entry) => entry.load()));
    const parsed = await parseCommandLine(words, specs, environment.version);
    if (parsed.kind === "text") {
      environment.terminal.output.write(parsed.text);
      return 0;
    }
    return await parsed.command.run(parsed.input, environment);
  } catch (error) {
    return reportError(error, environment, wantsJson(words) ? "json" : "table");
  }
}

/** Also where the line could not be parsed: a script that asks for JSON gets its errors in it. */
function wantsJson(words: readonly string[]): boolean {
  const at = words.lastIndexOf("--output");
  return words.includes("--output=json") || (at !== -1 && words[at + 1] === "json");
}
