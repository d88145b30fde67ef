/** What a command is: data for the parser, the help and the reference, and a function that runs it. */
import { KluisError } from "#base/kluis-error.ts";
import type { CliEnvironment } from "#cli/environment.ts";

/** One option of a command. */
export interface OptionSpec {
  /** As commander reads it: `--store <dir>`, `--overwrite`, `--no-verify-before-commit`. */
  readonly flags: string;
  readonly text: string;
  /** Whether the command fails without it. */
  readonly required?: true;
  /** Whether it may be given several times. */
  readonly repeated?: true;
  /** The only values it takes. */
  readonly choices?: readonly string[];
  /** What holds without it, for the help. */
  readonly otherwise?: string;
}

/** One positional argument. */
export interface ArgumentSpec {
  readonly name: string;
  readonly text: string;
  readonly required: boolean;
}

/** A command line with what it does. */
export interface CommandExample {
  readonly line: string;
  readonly text: string;
}

/** A command. */
export interface CommandSpec {
  /** `["image", "backup"]`. */
  readonly words: readonly string[];
  /** One line without a period. */
  readonly summary: string;
  /** One or more sentences. */
  readonly description: string;
  readonly arguments: readonly ArgumentSpec[];
  readonly options: readonly OptionSpec[];
  readonly examples: readonly CommandExample[];
  /** Exit codes that this command is known for, beside 0, 2, 70 and 130. */
  readonly exits: readonly number[];
  /** Kind of its JSON output; see docs/reference/output.md. */
  readonly outputKind: string;
  /** Runs the command and returns the exit code. */
  run(input: CommandInput, environment: CliEnvironment): Promise<number>;
}

/** Arguments and options of one call, with checked access. */
export class CommandInput {
  readonly #arguments: readonly (string | undefined)[];
  readonly #options: Readonly<Record<string, unknown>>;

  constructor(values: readonly (string | undefined)[], options: Readonly<Record<string, unknown>>) {
    this.#arguments = values;
    this.#options = options;
  }

  /** The positional argument at `index`. */
  argument(index: number): string | undefined {
    return this.#arguments[index];
  }

  /** A positional argument that the parser has asked for. */
  requiredArgument(index: number, name: string): string {
    return required(this.#arguments[index], `<${name}>`);
  }

  /** The value of an option, by its name in camel case. */
  text(name: string): string | undefined {
    const value = this.#options[name];
    return typeof value === "string" ? value : undefined;
  }

  /** The value of an option that must be there. */
  requiredText(name: string): string {
    return required(this.text(name), `--${toKebab(name)}`);
  }

  /** All values of a repeated option. */
  texts(name: string): readonly string[] {
    const value = this.#options[name];
    if (!Array.isArray(value)) return [];
    return value.filter((item): item is string => typeof item === "string");
  }

  /** Whether a switch is on. */
  flag(name: string): boolean {
    return this.#options[name] === true;
  }

  /** Whether a switch that is on by itself was turned off (`--no-…`). */
  isOff(name: string): boolean {
    return this.#options[name] === false;
  }

  /** A whole number in a range. ArgumentInvalid (after-change). */
  count(name: string, range: { readonly min: number; readonly max: number }): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= range.min && value <= range.max) return value;
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot use "${text}" for --${toKebab(name)}: it must be a whole number from ${range.min} to ${range.max}`,
    );
  }
}

function required(value: string | undefined, flag: string): string {
  if (value !== undefined && value !== "") return value;
  throw new KluisError("ArgumentInvalid", `Cannot run the command: ${flag} is missing or empty`);
}

function toKebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
