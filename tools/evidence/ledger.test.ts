import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { repositoryRoot } from "../tidy/source-files.ts";
import { parseLedger, updateLedger, type LedgerRow } from "./ledger.ts";
import { listEvidence, loadEvidence } from "./registry.ts";

const empty =
  "# Evidence\n\nText.\n\n| name | date | cores | command | figure | bar | holds |\n|---|---|---:|---|---|---|---|\n";
const row: LedgerRow = {
  name: "full-backup",
  date: "2026-11-22",
  cores: 2,
  command: "npm run evidence -- full-backup",
  figure: "0.31 | of restic",
  bar: "≤ 0.35",
  holds: true,
};

test("ledger: a row comes back as it was written", () => {
  const page = updateLedger(empty, row);
  assert.deepEqual(parseLedger(page), [row]);
  assert.ok(page.startsWith("# Evidence\n\nText.\n\n| name"));
});

test("ledger: a row replaces the one of its name and rows stay sorted", () => {
  const names = ["restore", "full-backup", "crash-cuts"];
  const page = names.reduce((text, name) => updateLedger(text, { ...row, name }), empty);
  const replaced = updateLedger(page, { ...row, figure: "0.5", holds: false });
  assert.deepEqual(
    parseLedger(replaced).map((entry) => `${entry.name} ${entry.figure} ${entry.holds}`),
    ["crash-cuts 0.31 | of restic true", "full-backup 0.5 false", "restore 0.31 | of restic true"],
  );
});

test("ledger: refuses a page without its table and a broken row", () => {
  assert.throws(() => parseLedger("# Evidence\n"), /table is missing/);
  assert.throws(() => parseLedger(`${empty}| a | b |\n`), /not a row/);
});

test("ledger: every row of docs/evidence.md belongs to an evidence and shows its bar", async () => {
  const page = await readFile(join(repositoryRoot, "docs/evidence.md"), "utf8");
  for (const entry of parseLedger(page)) {
    const evidence = await loadEvidence(entry.name);
    assert.equal(evidence?.bar, entry.bar, entry.name);
  }
});

test("registry: every file of the folder exports an evidence of its name, on one line each", async () => {
  for (const name of await listEvidence()) {
    const evidence = await loadEvidence(name);
    assert.ok(evidence !== undefined && !/\n/.test(evidence.claim + evidence.bar), name);
  }
  assert.equal(await loadEvidence("no-such-evidence"), undefined);
});
