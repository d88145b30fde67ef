/**
 * Goal: VSS is asked for a copy exactly where policy or guest say so, and what others have set in the
 * guest stays. Method: tables of what may be found; the verdict on all combinations of what may happen.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { FreezeOutcome } from "../scripts/decide-consistency.ts";
import { decideVssConsistency } from "./decide-vss-consistency.ts";
import { isCopyFlag, parseVssFacts, planVss, type VssFacts } from "./plan-vss.ts";
import type { WritersVerdict } from "./vss-writers.ts";
import { parseWindowsState } from "./windows-extension.ts";

const usual: VssFacts = {
  isProviderThere: true,
  start: 2,
  option: undefined,
  copyFlag: undefined,
};
const full = { backupType: "full" } as const;

function encode(text: string): string {
  return Buffer.from(text, "utf8").toString("base64");
}

test("plan vss: a full backup by default, and nothing is changed for it", () => {
  assert.deepEqual(planVss(usual, false), { evidence: full });
  assert.deepEqual(planVss({ ...usual, option: 1 }, false), { evidence: full });
  assert.deepEqual(planVss({ ...usual, option: 9 }, false), { evidence: full });
  // Somebody else asks for copies: that stays.
  assert.deepEqual(planVss({ ...usual, option: 5 }, false), { evidence: { backupType: "copy" } });
  assert.deepEqual(planVss({ ...usual, option: 3 }, false), { evidence: { backupType: "other" } });
});

test("plan vss: a copy where the policy or the guest asks for it, any spelling", () => {
  for (const flag of ["TRUE", "true", "True", " tRuE "]) assert.equal(isCopyFlag(flag), true, flag);
  for (const flag of [undefined, "", "FALSE", "1", "yes"]) assert.equal(isCopyFlag(flag), false);
  const change = ["keep", "5"];
  const byGuest = { backupType: "copy", copyAskedBy: "guest" };
  const byPolicy = { backupType: "copy", copyAskedBy: "policy" };
  const asked = { ...usual, copyFlag: "true" };
  assert.deepEqual(planVss(asked, false), { change, evidence: byGuest });
  assert.deepEqual(planVss({ ...asked, option: 5 }, false), { evidence: byGuest });
  assert.deepEqual(planVss({ ...usual, option: 1 }, true), { change, evidence: byPolicy });
  assert.deepEqual(planVss(asked, true), { change, evidence: byPolicy });
});

test("plan vss: a copy that is asked for no more is taken back to what was there", () => {
  const own = { before: undefined, after: 5 };
  const change = ["keep", "restore"];
  assert.deepEqual(planVss({ ...usual, option: 5, own }, false), { change, evidence: full });
  const wasOther = { before: 3, after: 5 };
  assert.deepEqual(planVss({ ...usual, option: 5, own: wasOther }, false), {
    change,
    evidence: { backupType: "other" },
  });
  // Somebody else has set it since.
  assert.deepEqual(planVss({ ...usual, option: 3, own }, false), {
    change,
    evidence: { backupType: "other" },
  });
});

test("plan vss: a manual service becomes automatic, a disabled one stays and is told", () => {
  assert.deepEqual(planVss({ ...usual, start: 3 }, false).change, ["2", "keep"]);
  const disabled = planVss({ ...usual, start: 4 }, false);
  assert.equal(disabled.change, undefined);
  assert.match(disabled.obstacle ?? "", /disabled/);
  assert.match(planVss({ ...usual, isProviderThere: false }, false).obstacle ?? "", /provider/);
});

test("plan vss: a guest that cannot be frozen is not changed", () => {
  const asked = { ...usual, start: 3, copyFlag: "true" };
  assert.deepEqual(planVss(asked, false).change, ["2", "5"]);
  const own = { before: undefined, after: 5 };
  for (const facts of [
    { ...asked, isProviderThere: false },
    { ...asked, start: 4 },
    { ...usual, isProviderThere: false, option: 5, own },
  ]) {
    const { change, obstacle } = planVss(facts, false);
    assert.equal(change, undefined);
    assert.notEqual(obstacle, undefined);
  }
});

test("plan vss: an answer of another form is refused", () => {
  const answer = {
    provider: true,
    start: 3,
    option: 5,
    own: { before: null, after: 5 },
    copy: "x",
  };
  assert.deepEqual(parseVssFacts(encode(JSON.stringify(answer))), {
    isProviderThere: true,
    start: 3,
    option: 5,
    own: { before: undefined, after: 5 },
    copyFlag: "x",
  });
  for (const text of ["", "garbage", encode("[]"), encode("{}"), encode("{")]) {
    assert.throws(
      () => parseVssFacts(text),
      (error) => isKluisError(error, "AgentFailed"),
    );
  }
});

test("vss consistency: only a hold that counts and writers that all succeeded are application-consistent", () => {
  const freezes: readonly FreezeOutcome[] = [
    { kind: "counts" },
    { kind: "void", reason: "couldn't hold writes" },
    { kind: "off" },
  ];
  const failed = { id: "a", name: "SqlServerWriter", state: 9, lastError: "x" };
  const all: readonly (WritersVerdict | undefined)[] = [
    undefined,
    { kind: "succeeded", count: 3 },
    { kind: "failed", count: 3, failed: [failed] },
    { kind: "busy", reason: "busy" },
    { kind: "unknown", reason: "unknown" },
  ];
  for (const requested of ["application", "file-system"] as const) {
    for (const freeze of freezes) {
      for (const writers of all) {
        const round = { requested, freeze, evidence: full };
        const verdict = decideVssConsistency({ ...round, ...(writers ? { writers } : {}) });
        const isHeld = freeze.kind === "counts";
        const isBest = isHeld && requested === "application" && writers?.kind === "succeeded";
        const expected = isBest ? "application" : isHeld ? "file-system" : "crash";
        assert.equal(verdict.consistency, expected);
        const isLess = verdict.consistency !== requested;
        assert.equal(verdict.reason !== undefined, isLess, JSON.stringify(verdict));
      }
    }
  }
  const named = decideVssConsistency({
    requested: "application",
    freeze: { kind: "counts" },
    evidence: full,
    writers: { kind: "failed", count: 3, failed: [failed] },
  });
  assert.match(named.reason ?? "", /SqlServerWriter \(state 9, x\)/);
  assert.deepEqual(named.evidence.vss, { ...full, writers: 3, writersFailed: [failed] });
});

test("windows extension: its state lists every change in the guest", () => {
  assert.deepEqual(parseWindowsState("", "h"), { isInstalled: false, changes: [] });
  const kept = {
    start: { before: 3, after: 2 },
    option: { before: null, after: 5 },
    status: "application",
    error: null,
    at: "2026-01-02T03:04:05Z",
  };
  const folder = String.raw`C:\Program Files\Kluis\VMSnapshot`;
  const text = encode(["h", "1.0", folder, `\uFEFF${JSON.stringify(kept)}`].join("\n"));
  assert.deepEqual(parseWindowsState(text, "h"), {
    isInstalled: true,
    isCurrent: true,
    version: "1.0",
    lastStatus: "application",
    lastAt: "2026-01-02T03:04:05Z",
    changes: [
      String.raw`file C:\Program Files\Kluis\VMSnapshot\extension.ps1`,
      String.raw`file C:\Program Files\Kluis\VMSnapshot\state.json`,
      "start type of the service VSS: 2 (automatic), was 3 (manual)",
      "VssOption of the QEMU guest agent's VSS provider: 5 (copy), was not set",
    ],
  });
  const damaged = parseWindowsState(encode(["x", "", folder, "{"].join("\n")), "h");
  assert.deepEqual([damaged.isInstalled, damaged.isCurrent], [true, false]);
});
