/**
 * Both commands of the README, each on a fresh machine of its own: a minimal Debian or Ubuntu with
 * an old Node, a clone of the commit that is checked out, and nothing else.
 *
 * Options: `--only=demo` or `--only=test`.
 */
import { join } from "node:path";

import { isKluisError } from "#base/kluis-error.ts";

import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import {
  cloneInto,
  makeFreshMachine,
  runOn,
  type FreshMachine,
} from "../tools/evidence/fresh-machine.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

/** A first run installs everything and builds the lab's guests. */
const commandTimeoutMs = 90 * 60_000;
const lines = { demo: "npm run demo", test: "npm test" } as const;

/** Both commands of the README work on a machine that has only Debian's Node, npm and git. */
export const evidence: Evidence = {
  name: "two-commands",
  claim: "npm run demo and npm test do all their set-up and pass on a fresh machine",
  bar: "both exit 0",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const chosen = [lines.demo, lines.test].filter(
    (line) => context.options["only"] === undefined || line.endsWith(context.options["only"]),
  );
  const figures: string[] = [];
  let description = "";
  let passed = 0;
  for (const line of chosen) {
    const machine = await makeMachine(context, line);
    description = machine.description;
    const startMs = performance.now();
    const isGood = await runLine(context, machine, line);
    const seconds = ((performance.now() - startMs) / 1_000).toFixed(0);
    figures.push(`${line} ${isGood ? "passed" : "FAILED"} in ${seconds} s`);
    if (isGood) passed += 1;
  }
  const figure = `${figures.join(", ")} (${description})`;
  const isWhole = chosen.length === Object.keys(lines).length;
  return { figure, holds: passed === chosen.length, ...(isWhole ? {} : { isPartial: true }) };
}

async function makeMachine(context: EvidenceContext, line: string): Promise<FreshMachine> {
  const root = join(context.scratch, line.replaceAll(" ", "-"));
  context.log(`making a fresh machine for ${line}`);
  const machine = await makeFreshMachine(root, context.signal);
  await cloneInto(machine, repositoryRoot, context.signal);
  context.log(`${machine.description}: ${line}`);
  return machine;
}

async function runLine(
  context: EvidenceContext,
  machine: FreshMachine,
  line: string,
): Promise<boolean> {
  try {
    const options = { timeoutMs: commandTimeoutMs, signal: context.signal };
    for await (const text of runOn(machine, line, options)) context.log(`  ${text}`);
    return true;
  } catch (error) {
    if (!isKluisError(error)) throw error;
    context.log(error.message);
    return false;
  }
}
