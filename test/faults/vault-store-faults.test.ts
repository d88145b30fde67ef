// Goal: whatever the store does to a backup, the caller gets a typed error, nothing half is
// committed, nothing goes on behind the error, and the same vault works afterwards.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { FaultyStore, injectedError } from "#testing/faulty-store.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp } from "#testing/vault-points.ts";

test("vault store faults: a retry in the same process does not trust packs that no segment names", async () => {
  const random = createSeededRandom("retry");
  const disk = new MemoryDisk(1024 * 1024);
  disk.write(0, random.bytes(disk.sizeBytes));
  const inner = createMemoryStore();
  const store = new FaultyStore(inner);
  await using vault = await openTestVault({ store });
  store.inject({
    method: "put",
    name: /^index\//,
    fault: { kind: "error", error: injectedError() },
  });
  await assert.rejects(backUp(vault, { itemId: "vm", number: 1, disks: [disk] }), (error) =>
    isKluisError(error, "StoreUnavailable"),
  );
  const kept = await backUp(vault, { itemId: "vm", number: 2, disks: [disk] });
  await using reopened = await openTestVault({ store: inner });
  await assertPointReads(reopened, kept);
});
