/**
 * Goal: the verdict on a snapshot follows the rules of docs/design/extension.md in every case. Method:
 * all combinations of what may happen, against what the rules demand; some by a table with their words.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Consistency, ScriptRun } from "#ports/hypervisor.ts";
import {
  decideConsistency,
  refusalAfter,
  refusalBefore,
  toRefusalError,
  type FreezeOutcome,
  type RoundFacts,
  type ScriptResults,
  type ScriptsKnowledge,
} from "./decide-consistency.ts";
import type { ScriptSettings } from "./plan-scripts.ts";
import { scriptErrorNames, type ScriptErrorCode } from "./script-codes.ts";

const booleans = [true, false] as const;
const requests: readonly Consistency[] = ["application", "file-system", "crash"];
const freezes: readonly FreezeOutcome[] = [
  { kind: "counts" },
  { kind: "off" },
  { kind: "void", reason: "too slow" },
];
const runs: readonly ScriptRun[] = [
  { outcome: "succeeded", exitCode: 0, tries: 1, durationMs: 10 },
  { outcome: "failed", exitCode: 2, tries: 3, durationMs: 10 },
  { outcome: "timed-out", tries: 1, durationMs: 30_000 },
  { outcome: "unknown", tries: 0, durationMs: 0 },
];
const invalidCodes: readonly ScriptErrorCode[] = [302, 303, 306, 307];
const noneCodes: readonly ScriptErrorCode[] = [304, 305, 313, 314, 315, 316, 317, 318];

function* allSettings(): Generator<ScriptSettings> {
  const script = { path: "/s", parameters: [], tries: 1 };
  for (const continueBackupOnFailure of booleans) {
    for (const fsFreezeEnabled of booleans) {
      for (const isHostLimit of booleans) {
        const switches = { continueBackupOnFailure, fsFreezeEnabled, isHostLimit };
        yield { pre: script, post: script, timeoutMs: 30_000, appName: "db", ...switches };
      }
    }
  }
}

function* allKnowledge(): Generator<{ scripts: ScriptsKnowledge; results?: ScriptResults }> {
  yield { scripts: { kind: "unasked" } };
  yield { scripts: { kind: "unknown", reason: "no agent" } };
  for (const code of noneCodes) yield { scripts: { kind: "none", code } };
  for (const settings of allSettings()) {
    for (const code of invalidCodes) yield { scripts: { kind: "invalid", code, settings } };
    for (const pre of runs) {
      for (const post of runs) {
        for (const gap of [{}, { gapReason: "late" }]) {
          yield { scripts: { kind: "run", settings }, results: { pre, post, ...gap } };
        }
      }
    }
  }
}

function* allFacts(): Generator<RoundFacts> {
  for (const requested of requests) {
    for (const freeze of freezes) {
      for (const known of allKnowledge()) yield { requested, freeze, ...known };
    }
  }
}

test("decide consistency: application only with both scripts, between them, and a freeze that counts or is off", () => {
  for (const facts of allFacts()) {
    const { requested, freeze, results, scripts } = facts;
    const isAtRest =
      requested === "application" &&
      scripts.kind === "run" &&
      results?.pre.outcome === "succeeded" &&
      results.post.outcome === "succeeded" &&
      results.gapReason === undefined &&
      freeze.kind !== "void";
    const { consistency } = decideConsistency(facts);
    assert.equal(consistency === "application", isAtRest, JSON.stringify(facts));
    if (isAtRest) continue;
    const isFrozen = freeze.kind === "counts" && requested !== "crash";
    assert.equal(consistency, isFrozen ? "file-system" : "crash", JSON.stringify(facts));
  }
});

test("decide consistency: less than was asked for is never silent", () => {
  for (const facts of allFacts()) {
    const { consistency, reason } = decideConsistency(facts);
    const { scripts, requested } = facts;
    const hasNoScripts =
      scripts.kind === "unasked" || (scripts.kind === "none" && scripts.code === 316);
    const isUsual = consistency === "file-system" && hasNoScripts;
    const isAsked = consistency === requested && requested === "application";
    if (isUsual || isAsked) assert.equal(reason, undefined, JSON.stringify(facts));
    else if (consistency === "crash" || requested === "application") {
      assert.ok((reason ?? "").length > 0, JSON.stringify(facts));
    }
  }
});

test("decide consistency: a reason that speaks against both freeze and scripts is told once", () => {
  const [settings] = allSettings();
  const [done] = runs;
  assert.ok(settings !== undefined && done !== undefined);
  const { reason } = decideConsistency({
    requested: "application",
    scripts: { kind: "run", settings },
    results: { pre: done, post: done, gapReason: "Kluis stood still" },
    freeze: { kind: "void", reason: "Kluis stood still" },
  });
  assert.equal(reason, "Kluis stood still");
});

test("decide consistency: a failed script refuses the backup unless both switches let it go on", () => {
  for (const facts of allFacts()) {
    const { refusal, scripts: evidence } = decideConsistency(facts);
    const { scripts, results } = facts;
    if (facts.requested === "crash") {
      assert.equal(refusal, undefined);
      continue;
    }
    const hasFailed =
      results !== undefined &&
      [results.pre, results.post].some((run) => run.outcome !== "succeeded");
    const settings = "settings" in scripts ? scripts.settings : undefined;
    const isRefused =
      (scripts.kind === "invalid" && settings?.continueBackupOnFailure === false) ||
      (scripts.kind === "run" &&
        hasFailed &&
        !(scripts.settings.continueBackupOnFailure && scripts.settings.fsFreezeEnabled));
    assert.equal(refusal !== undefined, isRefused, JSON.stringify(facts));
    if (refusal !== undefined) assert.equal(evidence?.resultCode, refusal.code, "one code");
  }
});

test("decide consistency: the code is that of what went wrong first", () => {
  const [settings] = [...allSettings()].filter(({ isHostLimit }) => !isHostLimit);
  const [limited] = [...allSettings()].filter(({ isHostLimit }) => isHostLimit);
  assert.ok(settings !== undefined && limited !== undefined);
  const [done, failed, late, unknown] = runs;
  assert.ok(done && failed && late && unknown);
  const table = [
    [settings, done, done, 0, []],
    [settings, failed, done, 300, ["Pre-ScriptExecutionFailed"]],
    [settings, done, failed, 301, ["Post-ScriptExecutionFailed"]],
    [settings, late, failed, 308, ["Pre-ScriptTimeout", "Post-ScriptExecutionFailed"]],
    [settings, done, late, 309, ["Post-ScriptTimeout"]],
    [limited, late, done, 310, ["Pre-ScriptTimeout"]],
    [limited, done, late, 311, ["Post-ScriptTimeout"]],
    [settings, unknown, unknown, 300, ["Pre-ScriptExecutionFailed", "Post-ScriptExecutionFailed"]],
  ] as const;
  for (const [own, pre, post, code, errors] of table) {
    const { scripts } = decideConsistency({
      requested: "application",
      scripts: { kind: "run", settings: own },
      results: { pre, post, quiescedMs: 7 },
      freeze: { kind: "counts" },
    });
    assert.deepEqual(scripts, {
      resultCode: code,
      errors,
      appName: "db",
      pre,
      post,
      quiescedMs: 7,
    });
  }
});

test("decide consistency: a refusal before or after a script is that of the verdict", () => {
  for (const settings of allSettings()) {
    for (const code of invalidCodes) {
      const scripts = { kind: "invalid", code, settings } as const;
      assert.equal(
        refusalBefore(scripts)?.code,
        settings.continueBackupOnFailure ? undefined : code,
      );
    }
    for (const run of runs) {
      const refusal = refusalAfter(settings, "pre", run);
      const mayGoOn = settings.continueBackupOnFailure && settings.fsFreezeEnabled;
      assert.equal(refusal === undefined, run.outcome === "succeeded" || mayGoOn);
      if (refusal === undefined) continue;
      const error = toRefusalError(refusal);
      assert.equal(error.code, "GuestScriptFailed");
      assert.equal(error.details["scriptError"], scriptErrorNames[refusal.code]);
      assert.match(error.message, /^Cannot back up the VM: Pre-Script/);
    }
  }
});
