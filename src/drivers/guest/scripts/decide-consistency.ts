/**
 * What a snapshot is worth, from what was asked, what became of the guest's scripts, and whether the
 * freeze counts. Pure; the rules are those of docs/design/extension.md.
 */
import { KluisError } from "#base/kluis-error.ts";
import type { Consistency, ScriptRun, ScriptsEvidence } from "#ports/hypervisor.ts";
import type { ScriptSettings, ScriptsPlan } from "./plan-scripts.ts";
import {
  APPLICATION_CONSISTENT,
  NOT_CONFIGURED,
  scriptErrorNames,
  SUCCESS,
  type ScriptErrorCode,
} from "./script-codes.ts";

/** What is known of the guest's scripts. `unknown`: nobody could look; `unasked`: they were not wanted. */
export type ScriptsKnowledge =
  | ScriptsPlan
  | { readonly kind: "unknown"; readonly reason: string }
  | { readonly kind: "unasked" };

/** What became of the scripts of one round. */
export interface ScriptResults {
  readonly pre: ScriptRun;
  readonly post: ScriptRun;
  /** Why the instant is not between the two scripts; absent where it is. */
  readonly gapReason?: string;
  readonly quiescedMs?: number;
}

/** What became of the freeze. `off`: the scripts' configuration says that none is needed. */
export type FreezeOutcome =
  | { readonly kind: "counts" }
  | { readonly kind: "off" }
  | { readonly kind: "void"; readonly reason: string };

/** All that a verdict rests on. */
export interface RoundFacts {
  readonly requested: Consistency;
  readonly scripts: ScriptsKnowledge;
  /** Present exactly where the plan is to run them. */
  readonly results?: ScriptResults;
  readonly freeze: FreezeOutcome;
}

/** A verdict. `refusal`: the configuration of the scripts forbids to go on. */
export interface Verdict {
  readonly consistency: Consistency;
  readonly reason?: string;
  readonly scripts?: ScriptsEvidence;
  readonly refusal?: ScriptRefusal;
}

/** Why a backup may not go on. */
export interface ScriptRefusal {
  readonly code: ScriptErrorCode;
  readonly reason: string;
}

/** Why a backup may not even begin: a script may not be run, and the configuration insists on it. */
export function refusalBefore(scripts: ScriptsKnowledge): ScriptRefusal | undefined {
  if (scripts.kind !== "invalid" || scripts.settings.continueBackupOnFailure) return undefined;
  return { code: scripts.code, reason: describeCode(scripts.code) };
}

/** Why a backup may not go on after a script. */
export function refusalAfter(
  settings: ScriptSettings,
  which: "pre" | "post",
  run: ScriptRun,
): ScriptRefusal | undefined {
  const code = codeOf(settings, which, run);
  const mayGoOn = settings.continueBackupOnFailure && settings.fsFreezeEnabled;
  if (code === undefined || mayGoOn) return undefined;
  return { code, reason: describeRun(which, run) };
}

/** The error of a refused backup: GuestScriptFailed (after-change), with name and code in its details. */
export function toRefusalError(refusal: ScriptRefusal): KluisError {
  const { code, reason } = refusal;
  const name = scriptErrorNames[code];
  return new KluisError("GuestScriptFailed", `Cannot back up the VM: ${name}: ${reason}`, {
    details: { scriptError: name, resultCode: String(code) },
  });
}

/** The verdict on a snapshot that was taken. */
export function decideConsistency(facts: RoundFacts): Verdict {
  if (facts.requested === "crash") {
    return { consistency: "crash", reason: "a crash-consistent snapshot was asked for" };
  }
  const codes = codesOf(facts);
  const isAtRest = isApplicationAtRest(facts, codes);
  const consistency = isAtRest
    ? "application"
    : facts.freeze.kind === "counts"
      ? "file-system"
      : "crash";
  const reasons = isAtRest ? [] : reasonsOf(facts);
  const scripts = evidenceOf(facts, { codes, isAtRest });
  const refusal = refusalOf(facts);
  return {
    consistency,
    ...(reasons.length === 0 ? {} : { reason: reasons.join("; ") }),
    ...(scripts === undefined ? {} : { scripts }),
    ...(refusal === undefined ? {} : { refusal }),
  };
}

function isApplicationAtRest(facts: RoundFacts, codes: readonly ScriptErrorCode[]): boolean {
  const { scripts, results, freeze } = facts;
  if (facts.requested !== "application" || scripts.kind !== "run" || results === undefined)
    return false;
  return codes.length === 0 && results.gapReason === undefined && freeze.kind !== "void";
}

function codesOf(facts: RoundFacts): readonly ScriptErrorCode[] {
  const { scripts, results } = facts;
  if (scripts.kind === "none" || scripts.kind === "invalid") return [scripts.code];
  if (scripts.kind !== "run" || results === undefined) return [];
  const { settings } = scripts;
  return [codeOf(settings, "pre", results.pre), codeOf(settings, "post", results.post)].filter(
    (code) => code !== undefined,
  );
}

function codeOf(
  settings: ScriptSettings,
  which: "pre" | "post",
  run: ScriptRun,
): ScriptErrorCode | undefined {
  if (run.outcome === "succeeded") return undefined;
  if (run.outcome !== "timed-out") return which === "pre" ? 300 : 301;
  if (settings.isHostLimit) return which === "pre" ? 310 : 311;
  return which === "pre" ? 308 : 309;
}

function refusalOf(facts: RoundFacts): ScriptRefusal | undefined {
  const { scripts, results } = facts;
  if (scripts.kind !== "run" || results === undefined) return refusalBefore(scripts);
  return (
    refusalAfter(scripts.settings, "pre", results.pre) ??
    refusalAfter(scripts.settings, "post", results.post)
  );
}

function reasonsOf(facts: RoundFacts): readonly string[] {
  const { scripts, results, freeze } = facts;
  const reasons: string[] = [];
  if (scripts.kind === "unknown") reasons.push(`no scripts were run: ${scripts.reason}`);
  const isWrong = scripts.kind === "invalid" || scripts.kind === "none";
  // A guest without scripts is the usual one, and file-system-consistent is what it can give.
  if (isWrong && scripts.code !== NOT_CONFIGURED) {
    reasons.push(`${scriptErrorNames[scripts.code]}: ${describeCode(scripts.code)}`);
  }
  if (scripts.kind === "run" && results !== undefined) {
    for (const which of ["pre", "post"] as const) {
      const code = codeOf(scripts.settings, which, results[which]);
      if (code === undefined) continue;
      reasons.push(`${scriptErrorNames[code]}: ${describeRun(which, results[which])}`);
    }
    if (results.gapReason !== undefined) reasons.push(results.gapReason);
  }
  if (freeze.kind === "void") reasons.push(freeze.reason);
  if (freeze.kind === "off") reasons.push("the scripts' configuration says not to freeze");
  // Whoever lets the guest go on by himself has one reason for the thaw and for the post script.
  return [...new Set(reasons)];
}

function evidenceOf(
  facts: RoundFacts,
  found: { readonly codes: readonly ScriptErrorCode[]; readonly isAtRest: boolean },
): ScriptsEvidence | undefined {
  const { scripts, results } = facts;
  if (scripts.kind === "unknown" || scripts.kind === "unasked") return undefined;
  const settings = scripts.kind === "none" ? undefined : scripts.settings;
  const [code] = found.codes;
  const usual = found.isAtRest ? APPLICATION_CONSISTENT : SUCCESS;
  return {
    resultCode: code ?? usual,
    errors: found.codes
      .filter((each) => each !== NOT_CONFIGURED)
      .map((each) => scriptErrorNames[each]),
    ...(settings?.appName === undefined ? {} : { appName: settings.appName }),
    ...(results === undefined ? {} : { pre: results.pre, post: results.post }),
    ...(results?.quiescedMs === undefined ? {} : { quiescedMs: results.quiescedMs }),
  };
}

const codeWords: Readonly<Partial<Record<ScriptErrorCode, string>>> = {
  302: "the pre script is not there",
  303: "the post script is not there",
  304: "the host configuration cannot be read",
  305: "the configuration is not valid JSON of the known form",
  306: "the pre script must belong to root, and group and others must have no right to it",
  307: "the post script must belong to root, and group and others must have no right to it",
  313: "the host configuration is no file",
  314: "group and others may at most read the host configuration",
  315: "the host configuration must belong to root",
  317: "the configuration must have mode 600",
  318: "the configuration must belong to root",
};

function describeCode(code: ScriptErrorCode): string {
  return `${codeWords[code] ?? scriptErrorNames[code]} (code ${String(code)})`;
}

function describeRun(which: "pre" | "post", run: ScriptRun): string {
  const { outcome, exitCode, tries, durationMs } = run;
  const times = tries > 1 ? ` ${String(tries)} times` : "";
  if (outcome === "unknown") return `nobody could tell what became of the ${which} script`;
  if (outcome === "timed-out") {
    return `the ${which} script did not end within ${String(Math.round(durationMs / 1000))} s`;
  }
  return `the ${which} script ended${times} with exit code ${String(exitCode ?? 0)}`;
}
