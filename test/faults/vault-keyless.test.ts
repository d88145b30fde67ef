// Goal: an object that is missing, cut, longer, changed or replaced is named by a check without a key,
// and nothing else is; a forged inventory is told with the key; a collected object is no alarm.
// Method: each object of a small vault in memory is damaged in each way in turn.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { putInventoryPart } from "#vault/inventory/inventory.ts";
import { verifyStore } from "#vault/verify-store.ts";
import { buildSmallVault, countKeyless } from "./keyless-damage.ts";

const rounds = process.env["KLUIS_LONG"] === "1" ? 50 : 1;
const { vaultId } = testKeys;

test("vault keyless: every object that is missing or damaged is named, and no other", async () => {
  for (let round = 0; round < rounds; round++) {
    const { cases, unnamed } = await countKeyless(`keyless ${round}`);
    assert.deepEqual(unnamed, []);
    console.log(`${cases} cases`);
  }
});

test("vault keyless: what is whole, on its way, or was removed on purpose is no alarm", async () => {
  const objects = await buildSmallVault(createSeededRandom("keyless sound"));
  const store = createMemoryStore(objects);
  const check = () => verifyStore({ store, vaultId, depth: "objects", clock: systemClock });
  const sound = await check();
  assert.deepEqual([sound.verdict, sound.objectsUnnamed], ["sound", 0]);
  const [pack = ""] = [...objects.keys()].filter((name) => name.startsWith("packs/"));
  await putInventoryPart({ store, keys: testKeys }, { removed: [pack] });
  assert.equal((await check()).verdict, "sound", "between the two steps of a removal");
  await store.remove(pack);
  assert.equal((await check()).verdict, "sound");
});
