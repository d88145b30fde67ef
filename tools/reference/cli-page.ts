/** The pages about commands and their output, made from the command table and the contract. */
import { outputFormat } from "#contract/cli-output.ts";
import { outputShapes } from "#contract/cli-output-docs.ts";
import type { ShapeDoc } from "#contract/shape-doc.ts";
import { loadAllCommands } from "#cli/command-table.ts";
import type { CommandSpec, OptionSpec } from "#cli/command.ts";
import { usualExits } from "#cli/exit-codes.ts";

const commands = await loadAllCommands();

/** docs/reference/cli.md. */
export function cliPage(): string {
  const rows = commands.map(
    (command) => `| [${title(command)}](#${anchor(title(command))}) | ${command.summary} |`,
  );
  return [
    "# Commands",
    "",
    "<!-- Made by scripts/reference.ts from src/cli. Do not edit. -->",
    "",
    "`kluis help COMMAND` shows the same. With `--output json` a command prints one document, described",
    "in [output.md](output.md); progress and errors go to the error stream. Progress is drawn on a",
    "terminal, written as a line now and then elsewhere, and left out with `--output json`.",
    "",
    "Ctrl-C ends a command in an orderly way: guests are thawed, nothing half done is left, and the exit",
    "code is 130. A second Ctrl-C changes nothing.",
    "",
    "| environment | meaning |",
    "|---|---|",
    "| `KLUIS_PASSPHRASE` | opens the vault where no key option is given |",
    "| `KLUIS_DEBUG=1` | writes stacks of errors to the error stream |",
    "| `KLUIS_STATE` | folder of the state: keys of this host, records of VMs, what it remembers of vaults |",
    "| `XDG_CACHE_HOME`, `XDG_STATE_HOME`, `HOME` | where cache and state lie |",
    "",
    "| command | what it does |",
    "|---|---|",
    ...rows,
    "",
    ...commands.flatMap(commandSection),
  ].join("\n");
}

function commandSection(command: CommandSpec): readonly string[] {
  const usage = command.arguments.map(({ name, required }) =>
    required ? `<${name}>` : `[${name}]`,
  );
  const codes = [...new Set([...usualExits, ...command.exits])].sort((a, b) => a - b);
  return [
    `## ${title(command)}`,
    "",
    `    ${[title(command), ...usage, "[options]"].join(" ")}`,
    "",
    command.description,
    "",
    ...(command.arguments.length === 0
      ? []
      : [
          "| argument | meaning |",
          "|---|---|",
          ...command.arguments.map(({ name, text }) => `| \`${name}\` | ${escape(text)} |`),
          "",
        ]),
    "| option | meaning |",
    "|---|---|",
    ...command.options.map(optionRow),
    "",
    ...command.examples.flatMap(({ line, text }) => [text, "", `    ${line}`, ""]),
    `Output: [${command.outputKind}](output.md#${anchor(command.outputKind)}). ` +
      `Exit codes: ${codes.join(", ")} ([meaning](exit-codes.md)).`,
    "",
  ];
}

function optionRow(option: OptionSpec): string {
  const notes = [
    ...(option.required === true ? ["required"] : []),
    ...(option.choices === undefined ? [] : [`one of ${option.choices.join(", ")}`]),
    ...(option.otherwise === undefined ? [] : [`otherwise ${option.otherwise}`]),
  ];
  const tail = notes.length === 0 ? "" : ` (${notes.join("; ")})`;
  return `| \`${option.flags}\` | ${escape(option.text + tail)} |`;
}

/** docs/reference/output.md. */
export function outputPage(): string {
  const documents = outputShapes.filter(({ isDocument }) => isDocument);
  const parts = outputShapes.filter(({ isDocument }) => !isDocument);
  return [
    "# JSON output",
    "",
    "<!-- Made by scripts/reference.ts from src/contract. Do not edit. -->",
    "",
    `With \`--output json\` a command prints one JSON document. Its member \`format\` is ${outputFormat}, its member`,
    "`kind` one of the headings below. Within one format number members are only added; programs ignore",
    "those that they do not know. A time is text as in RFC 3339, in UTC. Numbers of bytes are exact.",
    "A verdict is `sound`, `damaged` or `unknown`. A type that ends in `?` may be absent.",
    "",
    "## Documents",
    "",
    ...documents.flatMap((shape) => [
      `### ${shape.name}`,
      "",
      `Printed by ${shape.text}.`,
      "",
      ...table(shape),
    ]),
    "## Parts",
    "",
    ...parts.flatMap((shape) => [`### ${shape.name}`, "", ...table(shape)]),
  ].join("\n");
}

function table(shape: ShapeDoc): readonly string[] {
  return [
    "| member | type | meaning |",
    "|---|---|---|",
    ...Object.entries(shape.members).map(
      ([name, [type, text]]) => `| \`${name}\` | ${type} | ${escape(text)} |`,
    ),
    "",
  ];
}

function title(command: CommandSpec): string {
  return `kluis ${command.words.join(" ")}`;
}

function anchor(heading: string): string {
  return heading.toLowerCase().replace(/ /g, "-");
}

function escape(text: string): string {
  return text.replace(/\|/g, "\\|").replace(/</g, "&lt;");
}
