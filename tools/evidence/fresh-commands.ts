/** Runs both commands of the README, each on a fresh machine of its own, and keeps what they came to. */
import { join } from "node:path";

import { isKluisError } from "#base/kluis-error.ts";

import { createStamp, readFreshFigures, writeFigures } from "../../bench/figures.ts";
import { repositoryRoot } from "../tidy/source-files.ts";
import type { EvidenceContext } from "./evidence.ts";
import { cloneInto, type FreshMachine, makeFreshMachine, runOn } from "./fresh-machine.ts";
import { sharedMsMax } from "./shared-figures.ts";

/** A first run installs everything and builds the lab's guests. */
const commandTimeoutMs = 90 * 60_000;
/** The commands of the README. */
export const freshLines = { demo: "npm run demo", test: "npm test" } as const;

/** One of the commands. */
export type FreshName = keyof typeof freshLines;

/** What a command came to on its fresh machine. */
export interface FreshRun {
  readonly isGood: boolean;
  /** With all set-up. */
  readonly durationMs: number;
  /** Of the machine: "Debian GNU/Linux 12 (bookworm), Node v18.20.4". */
  readonly description: string;
  /** Closing figures of the test runner by name, `pass` and `duration_ms` among them; of tests only. */
  readonly summary: Readonly<Record<string, number>>;
}

/** Runs a command on a new machine, from a clone of the commit that is checked out. */
export async function runFresh(name: FreshName, context: EvidenceContext): Promise<FreshRun> {
  const { commit, machine } = await makeMachine(name, context);
  const stamp = { ...(await createStamp(context.signal)), commit };
  const startMs = performance.now();
  const summary: Record<string, number> = {};
  const isGood = await runLine(context, machine, freshLines[name], (text) => {
    const [, key, value] = /^ℹ (\w+) ([\d.]+)$/.exec(text) ?? [];
    if (key !== undefined) summary[key] = Number(value);
  });
  const durationMs = performance.now() - startMs;
  const figures: FreshRun = { isGood, durationMs, description: machine.description, summary };
  await writeFigures(figuresName(name), { stamp, figures }, "whole");
  return figures;
}

/**
 * What the command came to in the last hour with the commit that is checked out, on this machine; runs
 * it where it has not run.
 */
export async function readOrRunFresh(name: FreshName, context: EvidenceContext): Promise<FreshRun> {
  const { commit } = await createStamp(context.signal);
  const kept = await readFreshFigures<FreshRun>(figuresName(name), sharedMsMax, context.signal);
  if (kept?.stamp.commit !== commit) return await runFresh(name, context);
  context.log(`figures of an earlier run, of the same commit on this machine`);
  return kept.figures;
}

function figuresName(name: FreshName): string {
  return `fresh-${name}`;
}

async function makeMachine(
  name: FreshName,
  context: EvidenceContext,
): Promise<{ readonly machine: FreshMachine; readonly commit: string }> {
  const line = freshLines[name];
  const root = join(context.scratch, line.replaceAll(" ", "-"));
  context.log(`making a fresh machine for ${line}`);
  const machine = await makeFreshMachine(root, context.signal);
  const commit = await cloneInto(machine, repositoryRoot, context.signal);
  context.log(`${machine.description}: ${line} of commit ${commit}`);
  return { machine, commit };
}

async function runLine(
  context: EvidenceContext,
  machine: FreshMachine,
  line: string,
  onLine: (text: string) => void,
): Promise<boolean> {
  try {
    const options = { timeoutMs: commandTimeoutMs, signal: context.signal };
    for await (const text of runOn(machine, line, options)) {
      context.log(`  ${text}`);
      onLine(text);
    }
    return true;
  } catch (error) {
    if (!isKluisError(error)) throw error;
    context.log(error.message);
    return false;
  }
}
