/**
 * Goal: which scripts are run is decided exactly by the rules of docs/design/extension.md. Method:
 * tables of every permission digit, owner and member; whatever else a guest says never throws.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import type { InspectedFile } from "../extension/inspected-file.ts";
import { parseIniSection } from "./parse-ini.ts";
import {
  planHost,
  planMountsToSkip,
  planScripts,
  planSettings,
  SCRIPT_CONFIG_PATH,
  type ScriptSettings,
} from "./plan-scripts.ts";

function fileOf(content: string, facts: { mode?: number; ownerId?: number } = {}): InspectedFile {
  const bytes = new TextEncoder().encode(content);
  const { mode = 0o600, ownerId = 0 } = facts;
  return { kind: "file", mode, ownerId, sizeBytes: bytes.byteLength, content: bytes };
}

const template = {
  pluginName: "ScriptRunner",
  preScriptLocation: "/root/pre.sh",
  postScriptLocation: "/root/post.sh",
  preScriptParams: ["", "it's"],
  postScriptParams: ["", ""],
  preScriptNoOfRetries: 0,
  postScriptNoOfRetries: 2,
  timeoutInSeconds: 30,
  continueBackupOnFailure: true,
  fsFreezeEnabled: true,
};

const host = { timeoutMs: 1_800_000 };

function settingsOf(change: Readonly<Record<string, unknown>>): ScriptSettings | number {
  const plan = planSettings(fileOf(JSON.stringify({ ...template, ...change })), host);
  return plan.kind === "usable" ? plan.settings : plan.code;
}

test("plan scripts: the host configuration may at most be read by others, and belongs to root", () => {
  const text =
    "[pre_post]\ntimeoutInSeconds: 60\nnumberOfPlugins: 1\npluginConfigPath0: /etc/x.json\n";
  for (let mode = 0; mode <= 0o777; mode += 1) {
    const isReadOnly = [(mode >> 3) & 7, mode & 7].every((digit) => digit === 0 || digit === 4);
    const plan = planHost(fileOf(text, { mode }));
    const expected = { kind: "usable", configPath: "/etc/x.json", timeoutMs: 60_000 };
    assert.deepEqual(plan, isReadOnly ? expected : { kind: "none", code: 314 }, mode.toString(8));
  }
  assert.deepEqual(planHost(fileOf(text, { ownerId: 1 })), { kind: "none", code: 315 });
});

test("plan scripts: without a host configuration its defaults hold; what cannot be read has its code", () => {
  const usual = { kind: "usable", configPath: SCRIPT_CONFIG_PATH, timeoutMs: 1_800_000 };
  assert.deepEqual(planHost({ kind: "missing" }), usual);
  assert.deepEqual(planHost(fileOf("[pre_post]\n# all as usual\n")), usual);
  const other = { kind: "other", mode: 0o600, ownerId: 0, sizeBytes: 0 } as const;
  assert.deepEqual(planHost(other), { kind: "none", code: 313 });
  const wrong = [
    "",
    "[other]\n",
    "no section: 1\n",
    "[pre_post]\nnonsense\n",
    "[pre_post]\ntimeoutInSeconds: soon\n",
    "[pre_post]\ntimeoutInSeconds: 0\n",
    "[pre_post]\npluginConfigPath0: relative.json\n",
  ];
  for (const text of wrong) {
    assert.deepEqual(planHost(fileOf(text)), { kind: "none", code: 304 }, JSON.stringify(text));
  }
});

test("plan scripts: the configuration has no right for others, is not executable, and belongs to root", () => {
  for (let mode = 0; mode <= 0o777; mode += 1) {
    const isRight = (mode & 0o77) === 0 && (mode & 0o100) === 0;
    const plan = planSettings(fileOf(JSON.stringify(template), { mode }), host);
    assert.equal(plan.kind === "usable" ? 0 : plan.code, isRight ? 0 : 317, mode.toString(8));
  }
  const foreign = planSettings(fileOf(JSON.stringify(template), { ownerId: 1000 }), host);
  assert.deepEqual(foreign, { kind: "none", code: 318 });
  assert.deepEqual(planSettings({ kind: "missing" }, host), { kind: "none", code: 316 });
});

test("plan scripts: members of the configuration, their defaults, and what is not valid", () => {
  assert.deepEqual(settingsOf({}), {
    pre: { path: "/root/pre.sh", parameters: ["", "it's"], tries: 1 },
    post: { path: "/root/post.sh", parameters: ["", ""], tries: 3 },
    timeoutMs: 30_000,
    isHostLimit: false,
    continueBackupOnFailure: true,
    fsFreezeEnabled: true,
  });
  const locations = { preScriptLocation: "/a", postScriptLocation: "/b" };
  const least = planSettings(fileOf(JSON.stringify(locations)), host);
  assert.deepEqual(least, {
    kind: "usable",
    settings: {
      pre: { path: "/a", parameters: [], tries: 1 },
      post: { path: "/b", parameters: [], tries: 1 },
      timeoutMs: 10_000,
      isHostLimit: false,
      continueBackupOnFailure: true,
      fsFreezeEnabled: true,
    },
  });
  const invalid: readonly Readonly<Record<string, unknown>>[] = [
    { preScriptLocation: undefined },
    { postScriptLocation: 1 },
    { preScriptParams: "a b" },
    { postScriptParams: [1] },
    { preScriptParams: ["\0"] },
    { preScriptNoOfRetries: -1 },
    { postScriptNoOfRetries: 1.5 },
    { timeoutInSeconds: 0 },
    { timeoutInSeconds: "30" },
    { continueBackupOnFailure: "no" },
    { fsFreezeEnabled: 1 },
  ];
  for (const change of invalid) assert.equal(settingsOf(change), 305, JSON.stringify(change));
  for (const seconds of [0, 6, "x"]) {
    const settings = settingsOf({ ScriptsExecutionPollTimeSeconds: seconds });
    assert.equal(typeof settings, "object", "a poll time out of range is ignored");
  }
});

test("plan scripts: a script's time is at most the host's", () => {
  const plan = planSettings(fileOf(JSON.stringify(template)), { timeoutMs: 20_000 });
  assert.ok(plan.kind === "usable");
  assert.deepEqual([plan.settings.timeoutMs, plan.settings.isHostLimit], [20_000, true]);
});

test("plan scripts: scripts belong to root and nobody else may touch them; pre is looked at first", () => {
  const settings = settingsOf({});
  assert.ok(typeof settings === "object");
  const good = fileOf("", { mode: 0o700 });
  const missing: InspectedFile = { kind: "missing" };
  const codeOf = (pre: InspectedFile, post: InspectedFile): number => {
    const plan = planScripts(settings, { pre, post });
    return plan.kind === "run" ? 0 : plan.code;
  };
  assert.equal(codeOf(good, good), 0);
  assert.equal(codeOf(missing, missing), 302);
  assert.equal(codeOf(good, missing), 303);
  assert.equal(codeOf({ kind: "other", mode: 0o700, ownerId: 0, sizeBytes: 0 }, good), 302);
  for (let mode = 0; mode <= 0o777; mode += 1) {
    const code = (mode & 0o77) === 0 ? 0 : 1;
    assert.equal(codeOf(fileOf("", { mode }), good), code * 306, mode.toString(8));
    assert.equal(codeOf(good, fileOf("", { mode })), code * 307, mode.toString(8));
  }
  assert.equal(codeOf(fileOf("", { mode: 0o700, ownerId: 5 }), missing), 306);
  assert.equal(codeOf(good, fileOf("", { mode: 0o700, ownerId: 5 })), 307);
});

test("plan scripts: whatever a guest says, a plan comes out", () => {
  const file = fc.oneof(
    fc.constant<InspectedFile>({ kind: "missing" }),
    fc.record({
      kind: fc.constantFrom("file" as const, "other" as const),
      mode: fc.nat(0o7777),
      ownerId: fc.nat(3),
      sizeBytes: fc.nat(),
      content: fc.oneof(
        fc.uint8Array(),
        fc.json().map((text) => new TextEncoder().encode(text)),
        fc.string().map((text) => new TextEncoder().encode(`[pre_post]\n${text}`)),
      ),
    }),
  );
  fc.assert(
    fc.property(file, (each) => {
      planHost(each);
      planSettings(each, host);
      for (const mount of planMountsToSkip(each)) assert.ok(mount.startsWith("/"));
    }),
  );
});

test("plan scripts: mount points to skip are taken from a file that only root can write", () => {
  const text = "[SnapshotThread]\nMountsToSkip = /a, relative ,/b c\n";
  assert.deepEqual(planMountsToSkip(fileOf(text, { mode: 0o644 })), ["/a", "/b c"]);
  assert.deepEqual(planMountsToSkip(fileOf(text, { mode: 0o664 })), []);
  assert.deepEqual(planMountsToSkip(fileOf(text, { ownerId: 1 })), []);
  assert.deepEqual(planMountsToSkip({ kind: "missing" }), []);
});

test("parse ini: sections, both separators, comments, keys in any case", () => {
  const text = "; c\n[a]\nKey: v:1 \n# c\nother=x = y\r\n[b]\nkey: 2\n";
  assert.deepEqual(
    [...(parseIniSection(text, "a") ?? [])],
    [
      ["key", "v:1"],
      ["other", "x = y"],
    ],
  );
  assert.equal(parseIniSection(text, "c"), undefined);
});
