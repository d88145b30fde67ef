/** From the words of a command line to a command and its input, by commander. */
import { Command, CommanderError, Help, Option } from "commander";

import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { CommandInput, type CommandSpec, type OptionSpec } from "#cli/command.ts";
import { usualExits } from "#cli/exit-codes.ts";

/** What a command line asks for: a command to run, or text to print. */
export type ParsedLine =
  | { readonly kind: "run"; readonly command: CommandSpec; readonly input: CommandInput }
  | { readonly kind: "text"; readonly text: string };

const nounTexts: Readonly<Record<string, string>> = {
  vault: "create vaults and manage the keys that open them",
  "vault key": "list, add, remove, rotate and prove the keys that open a vault",
  key: "manage keys in a folder of this host, which wrap the keys of vaults",
  image: "back up and restore disk images and NBD exports",
  vm: "back up and restore VMs of this host",
  rescue: "restore with nothing but the store and the recovery key",
};

const summary =
  "Backs up virtual machines and disk images into an encrypted, deduplicating vault, and restores them.";

const intro = `Exit codes and error codes are in docs/reference; every error says what to do.
Keys are never given on the command line: name a file, or set KLUIS_PASSPHRASE.`;

/**
 * Parses `words`, the command line without program names.
 *
 * @param specs Commands to know of; all of them where help is wanted.
 *
 * Errors: ArgumentInvalid (after-change).
 */
export async function parseCommandLine(
  words: readonly string[],
  specs: readonly CommandSpec[],
  version: string,
): Promise<ParsedLine> {
  const chosen: { line?: ParsedLine } = {};
  const written: string[] = [];
  const program = createProgram(version, (text) => written.push(text));
  for (const spec of specs) {
    addCommand(program, spec, (command, input) => {
      chosen.line = { kind: "run", command, input };
    });
  }
  try {
    await program.parseAsync(toCommanderWords(words), { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: "text", text: written.join("") };
    throw toUsageError(error);
  }
  return present(chosen.line, "a parsed command line has a command");
}

/** `kluis help image backup` is `kluis image backup --help`; no words at all ask for help. */
function toCommanderWords(words: readonly string[]): string[] {
  if (words.length === 0) return ["--help"];
  return words[0] === "help" ? [...words.slice(1), "--help"] : [...words];
}

function createProgram(version: string, write: (text: string) => void): Command {
  const program = new Command("kluis");
  program
    .description(summary)
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print help")
    .helpCommand(false)
    .addHelpText("after", `\n${intro}\n`)
    .configureHelp({ sortSubcommands: false, showGlobalOptions: false })
    .configureOutput({ writeOut: write, writeErr: () => undefined })
    .exitOverride()
    .showSuggestionAfterError(true);
  return program;
}

function addCommand(
  program: Command,
  spec: CommandSpec,
  onRun: (spec: CommandSpec, input: CommandInput) => void,
): void {
  const parent = findParent(program, spec.words.slice(0, -1));
  const command = parent.command(spec.words.at(-1) ?? "");
  command
    .copyInheritedSettings(parent)
    .summary(spec.summary)
    .description(spec.description)
    .helpOption("-h, --help", "print help")
    .allowExcessArguments(false)
    .addHelpText("after", helpTail(spec));
  for (const argument of spec.arguments) {
    command.argument(
      argument.required ? `<${argument.name}>` : `[${argument.name}]`,
      argument.text,
    );
  }
  for (const option of spec.options) command.addOption(toOption(option));
  command.action(() => {
    onRun(spec, new CommandInput([...command.args], command.opts()));
  });
}

function findParent(program: Command, words: readonly string[]): Command {
  let parent = program;
  for (const [at, word] of words.entries()) {
    const known = parent.commands.find((candidate) => candidate.name() === word);
    if (known !== undefined) {
      parent = known;
      continue;
    }
    const made = parent.command(word).copyInheritedSettings(parent);
    made.description(nounTexts[words.slice(0, at + 1).join(" ")] ?? "");
    made.helpOption("-h, --help", "print help").helpCommand(false);
    parent = made;
  }
  return parent;
}

function toOption(spec: OptionSpec): Option {
  const tail = spec.otherwise === undefined ? "" : ` (otherwise ${spec.otherwise})`;
  const option = new Option(spec.flags, `${spec.text}${tail}`);
  if (spec.required === true) option.makeOptionMandatory();
  if (spec.choices !== undefined) option.choices([...spec.choices]);
  if (spec.repeated === true) {
    option.argParser((value: string, before: unknown) => [
      ...(Array.isArray(before) ? before : []),
      value,
    ]);
  }
  return option;
}

function helpTail(spec: CommandSpec): string {
  const help = new Help();
  const examples = spec.examples.flatMap(({ line, text }) => [`  ${line}`, `      ${text}`]);
  const codes = [...new Set([...usualExits, ...spec.exits])].sort((a, b) => a - b);
  const exits = help.boxWrap(`  ${codes.join(", ")} (docs/reference/exit-codes.md)`, 80);
  return ["", "Examples:", ...examples, "", "Exit codes:", exits].join("\n");
}

function toUsageError(error: CommanderError): KluisError {
  if (error.code === "commander.help") {
    return new KluisError("ArgumentInvalid", "Cannot read the command line: a command is missing");
  }
  const reason = error.message
    .replace(/^error: /, "")
    .replace(/\n/g, " ")
    .replace(/\.$/, "");
  return new KluisError("ArgumentInvalid", `Cannot read the command line: ${reason}`);
}
