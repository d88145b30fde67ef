// Goal: a pruning beside another one ends well, and a point that a wrong clock dated into the future
// does not make the newest ones go. Method: a vault in memory, points with times of their own.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { backUp, pointIdOf } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { applyPruning, planPruning } from "./prune.ts";

const dayMs = 24 * 60 * 60 * 1000;
const now = 20_000 * dayMs;

async function writePoints(
  vault: Vault,
  itemId: string,
  timesMs: readonly number[],
): Promise<void> {
  const disks = [new MemoryDisk(4096)];
  for (const number of timesMs) await backUp(vault, { itemId, number, disks });
}

test("prune: points that somebody else has just deleted are gone, and the rest goes too", async () => {
  await using vault = await openTestVault();
  await writePoints(vault, "vm", [now - 3 * dayMs, now - 2 * dayMs, now - dayMs]);
  const rules = { last: 1 };
  const [first, second] = [
    await planPruning(vault, rules, { nowMs: now }),
    await planPruning(vault, rules, { nowMs: now }),
  ];
  await applyPruning(vault, first);
  await applyPruning(vault, second);
  const left = (await vault.listPoints()).map(({ pointId }) => pointId);
  assert.deepEqual(left, [pointIdOf(now - dayMs)]);
});

test("prune: a point dated in the future is told, and nothing goes in its stead", async () => {
  await using vault = await openTestVault();
  await writePoints(vault, "vm", [now - dayMs, now + 365 * dayMs]);
  await writePoints(vault, "other", [now - dayMs, now + dayMs / 2]);
  const rules = { last: 1 };
  await assert.rejects(
    planPruning(vault, rules, { nowMs: now }),
    (error) => isKluisError(error, "ArgumentInvalid") && error.message.includes('"vm"'),
  );
  assert.equal((await planPruning(vault, rules, { nowMs: now, itemId: "other" })).length, 1);
});
