/**
 * Both commands of the README, each on a fresh machine of its own: a minimal Debian or Ubuntu with
 * an old Node, a clone of the commit that is checked out, and nothing else.
 *
 * Options: `--only=demo` or `--only=test`.
 */
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { freshLines, type FreshName, runFresh } from "../tools/evidence/fresh-commands.ts";

const names: readonly FreshName[] = ["demo", "test"];

/** Both commands of the README work on a machine that has only Debian's Node, npm and git. */
export const evidence: Evidence = {
  name: "two-commands",
  claim: "npm run demo and npm test do all their set-up and pass on a fresh machine",
  bar: "both exit 0",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const { only } = context.options;
  const chosen = names.filter((name) => only === undefined || name === only);
  const figures: string[] = [];
  let passed = 0;
  let machine = "";
  for (const name of chosen) {
    const { isGood, durationMs, description } = await runFresh(name, context);
    const seconds = (durationMs / 1_000).toFixed(0);
    figures.push(`${freshLines[name]} ${isGood ? "passed" : "FAILED"} in ${seconds} s`);
    if (isGood) passed += 1;
    machine = description;
  }
  const isWhole = chosen.length === names.length;
  return {
    figure: `${figures.join(", ")} (${machine})`,
    holds: passed === chosen.length,
    ...(isWhole ? {} : { isPartial: true }),
  };
}
