/**
 * Proves a claim by running it: `npm run evidence -- NAME [--key=value…]`, `--list`, `--all`.
 *
 * Prints `NAME: figure (bar …)` last, writes the row of docs/evidence.md, and exits 0 only if the
 * bar holds. What fails to run is written down as not holding.
 */
import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";

import type { Evidence, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { updateLedger, type LedgerRow } from "../tools/evidence/ledger.ts";
import { listEvidence, loadEvidence } from "../tools/evidence/registry.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

const ledgerPath = join(repositoryRoot, "docs/evidence.md");

interface Request {
  readonly evidence: Evidence;
  readonly options: Readonly<Record<string, string>>;
  /** The arguments as given, for the table. */
  readonly words: readonly string[];
}

async function writeRow(row: LedgerRow): Promise<void> {
  const draft = `${ledgerPath}.${process.pid}.tmp`;
  await writeFile(draft, updateLedger(await readFile(ledgerPath, "utf8"), row));
  await rename(draft, ledgerPath);
}

async function measure(request: Request, signal: AbortSignal): Promise<EvidenceOutcome> {
  const scratch = await mkdtemp(join(tmpdir(), "kluis-evidence-"));
  try {
    return await request.evidence.run({
      scratch,
      options: request.options,
      signal,
      log: (line) => {
        console.log(line);
      },
    });
  } catch (error) {
    signal.throwIfAborted();
    console.error(error);
    const reason = error instanceof Error ? error.message : String(error);
    // A try with options is no run of the whole, whatever stopped it.
    const isTry = Object.keys(request.options).length > 0;
    const outcome = { figure: `did not run: ${reason}`, holds: false };
    return isTry ? { ...outcome, isPartial: true } : outcome;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function prove(request: Request, signal: AbortSignal): Promise<boolean> {
  const { name, claim, bar } = request.evidence;
  console.log(`${name}: ${claim}`);
  const { figure, holds, isPartial } = await measure(request, signal);
  const row: LedgerRow = {
    name,
    date: new Date().toISOString().slice(0, "YYYY-MM-DD".length),
    cores: availableParallelism(),
    command: `npm run evidence -- ${request.words.join(" ")}`,
    figure,
    bar,
    holds,
  };
  if (isPartial !== true) await writeRow(row);
  console.log(`${name}: ${figure} (bar ${bar})${holds ? "" : " DOES NOT HOLD"}`);
  return holds;
}

function parseOptions(words: readonly string[]): Readonly<Record<string, string>> | undefined {
  const options: Record<string, string> = {};
  for (const word of words) {
    const [, key, value] = /^--([a-z][a-z-]*)=(.*)$/.exec(word) ?? [];
    if (key === undefined || value === undefined) return undefined;
    options[key] = value;
  }
  return options;
}

async function planRequests(words: readonly string[]): Promise<readonly Request[]> {
  const [first = "", ...rest] = words;
  const options = parseOptions(rest);
  if (options === undefined) return [];
  const names = first === "--all" ? await listEvidence() : [first];
  const requests: Request[] = [];
  for (const name of names) {
    const evidence = await loadEvidence(name);
    if (evidence !== undefined) requests.push({ evidence, options, words: [name, ...rest] });
  }
  return requests;
}

async function list(): Promise<number> {
  for (const name of await listEvidence()) {
    const evidence = await loadEvidence(name);
    console.log(`${name}: ${evidence?.claim} (bar ${evidence?.bar})`);
  }
  return 0;
}

async function main(words: readonly string[]): Promise<number> {
  if (words[0] === "--list") return list();
  const requests = await planRequests(words);
  if (requests.length === 0) {
    console.error("Usage: npm run evidence -- NAME [--key=value…] | --list | --all");
    return 2;
  }
  const interrupted = new AbortController();
  process.once("SIGINT", () => {
    interrupted.abort(new Error("interrupted"));
  });
  let failed = 0;
  for (const request of requests) {
    if (!(await prove(request, interrupted.signal))) failed += 1;
  }
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
