/** The pages of docs/reference that are made from data of the sources. */
import { errorRegistry, type ErrorEntry } from "#base/error-codes.ts";

import { cliPage, outputPage } from "./cli-page.ts";

/** One generated page. `path` is relative to the root of the repository. */
export interface ReferencePage {
  readonly path: string;
  readonly text: string;
}

const header = "<!-- Made by scripts/reference.ts from src/base/error-codes.ts. Do not edit. -->";

const retryTexts: Readonly<Record<ErrorEntry["retry"], string>> = {
  never: "no: the same call fails again",
  backoff: "yes, after a while",
  "after-change": "yes, once the step below is done",
};

/** What an exit code means as a group. Every exit code of the registry has one. */
export const exitMeanings: Readonly<Record<number, string>> = {
  0: "Everything that was asked is done and durable",
  2: "The command line or a file it names is not valid; nothing was started",
  3: "A program that Kluis needs is not installed",
  10: "There is no vault at the place, or something else is there",
  11: "The vault or its store cannot be used by this version",
  12: "The store does not answer or refuses access",
  13: "The store is full",
  14: "Something in the vault is missing or damaged",
  15: "The vault cannot be opened with the key that was given",
  16: "The recovery point is not there, or is there already",
  17: "It is locked, and cannot be removed before the lock ends",
  20: "The image is not there or cannot be read",
  21: "The image is written by another program",
  22: "Reading the disk failed",
  23: "The target of the restore cannot be written",
  24: "The NBD server failed",
  30: "The VM is not there or in the wrong state",
  31: "QEMU failed",
  32: "The guest agent failed",
  33: "The snapshot failed; the VM goes on",
  34: "Another run works on this",
  70: "Kluis contradicted itself; please report it",
  130: "Cancelled by Ctrl-C or SIGTERM; nothing was committed",
};

/** Every page, ready to be written. */
export function referencePages(): readonly ReferencePage[] {
  return [
    { path: "docs/reference/errors.md", text: errorsPage() },
    { path: "docs/reference/exit-codes.md", text: exitCodesPage() },
    { path: "docs/reference/cli.md", text: cliPage() },
    { path: "docs/reference/output.md", text: outputPage() },
  ];
}

function entries(): readonly (readonly [code: string, entry: ErrorEntry])[] {
  return Object.entries(errorRegistry);
}

function errorsPage(): string {
  const sections = entries().map(([code, entry]) =>
    [
      `## ${code}`,
      "",
      `${entry.title}.`,
      "",
      `- **What to do:** ${entry.action}`,
      `- **Retry:** ${retryTexts[entry.retry]}`,
      `- **Exit code:** ${entry.exit} · **HTTP status:** ${entry.http}`,
      "",
    ].join("\n"),
  );
  const intro =
    "Every operating error that Kluis reports has one of these codes. Messages may change between\n" +
    "versions; codes do not.";
  return ["# Errors", "", header, "", intro, "", ...sections].join("\n");
}

function exitCodesPage(): string {
  const rows = Object.entries(exitMeanings).map(([exit, meaning]) => {
    const codes = entries().flatMap(([code, entry]) =>
      entry.exit === Number(exit) ? [`[${code}](errors.md#${code.toLowerCase()})`] : [],
    );
    return `| ${exit} | ${meaning} | ${codes.length === 0 ? "–" : codes.join(", ")} |`;
  });
  const intro = "What the process of a `kluis` command ends with, and the errors behind it.";
  const table = ["| exit | meaning | errors |", "|---:|---|---|", ...rows];
  return ["# Exit codes", "", header, "", intro, "", ...table, ""].join("\n");
}
