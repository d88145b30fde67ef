/**
 * Goal: a case of never-frozen that went wrong is called so. Method: what the guest and Kluis told of a
 * case that went well, with one thing changed. Pure; no VM.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { expectedOf, judge, windowOf, type FrozenFacts } from "./frozen-judge.ts";

const facts: FrozenFacts = {
  cell: {
    driver: "qemu",
    guest: "scripted",
    party: "guard",
    step: "transaction",
    signal: "SIGKILL",
  },
  isReached: true,
  isHeld: true,
  observed: {
    gapSeconds: 2,
    writes: [10, 10.1, 13, 13.1],
    trace: [
      { script: "pre", atSeconds: 10.1 },
      { script: "post", atSeconds: 12.9 },
    ],
  },
  record: { consistency: "application" },
  failure: undefined,
  instant: { start: 11_000, end: 12_500, offset: 0, error: 0.01 },
};
const { cell, observed } = facts;

test("frozen judge: a case that went well has no problem", () => {
  assert.deepEqual(judge(facts), []);
  assert.deepEqual(windowOf(facts.instant), { from: 11.31, to: 12.49 });
});

const wrong: readonly (readonly [string, Partial<FrozenFacts>, RegExp])[] = [
  ["a long wait", { observed: { ...observed, gapSeconds: 10.01 } }, /waited 10\.01 s/],
  ["scripts that did not run", { observed: { ...observed, trace: [] } }, /ran as ""/],
  [
    "a post that did not run",
    { observed: { ...observed, trace: observed.trace.slice(0, 1) } },
    /ran as "pre"/,
  ],
  [
    "scripts in a guest that has none",
    { cell: { ...cell, guest: "plain" }, record: { consistency: "file-system" } },
    /ran as "pre post"/,
  ],
  ["a write at the instant", { observed: { ...observed, writes: [10, 12] } }, /1 writes at/],
  [
    "a post before the instant",
    { instant: { ...facts.instant, end: 13_000 } },
    /post ran before the instant/,
  ],
  [
    "a freeze that was lost with the guard",
    { record: { consistency: "crash", reason: "lost" } },
    /crash-consistent instead of application or file-system/,
  ],
  ["a reason where all is well", { record: { consistency: "application", reason: "x" } }, /reason/],
  ["a failed snapshot", { record: undefined, failure: "Internal: x" }, /the snapshot failed/],
];

for (const [name, change, problem] of wrong) {
  test(`frozen judge: ${name} is a problem`, () => {
    assert.match(judge({ ...facts, ...change }).join("; "), problem);
  });
}

test("frozen judge: nobody may keep a freeze through which Kluis stood still", () => {
  const stopped = { ...cell, party: "kluis", signal: "SIGSTOP" } as const;
  assert.deepEqual(expectedOf(stopped, true), ["crash"]);
  assert.equal(expectedOf(stopped, false), undefined);
  assert.deepEqual(expectedOf({ ...cell, guest: "plain" }, true), ["file-system"]);
});

test("frozen judge: scripts need not have run where nobody was harmed yet", () => {
  const empty = { ...observed, trace: [] };
  assert.deepEqual(judge({ ...facts, observed: empty, isReached: false, record: undefined }), []);
});
