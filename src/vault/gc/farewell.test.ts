// Goal: a session whose store no longer answers ends all the same, in bounded time, and one whose store
// answers leaves no lease although it was aborted.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectInfo } from "#ports/object-store.ts";
import { HookedStore } from "#testing/hooked-store.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { farewellMs } from "#vault/limits.ts";
import { BackupSession } from "./backup-session.ts";
import { openIndex } from "#vault/index/block-index.ts";

const commitKey = `points/${"0".repeat(32)}/000000000001-0000000000000001`;

/** Does not answer a listing once it is silent, as a network that is down. */
class SilentStore extends HookedStore {
  isSilent = false;
  isAsked = false;

  override async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    if (this.isSilent) {
      this.isAsked = true;
      await new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      });
    }
    yield* super.list(prefix, signal);
  }
}

test("farewell: takes leave of a store that answers, and of one that does not for a while only", async () => {
  const clock = new ManualClock();
  const inner = createMemoryStore();
  const store = new SilentStore(inner);
  const random = createSeededRandom("farewell");
  await using index = await openIndex({ segmentNames: [], readSegment: () => Promise.resolve([]) });
  const cancel = new AbortController();
  const deps = { store, keys: testKeys, random, clock, index, signal: cancel.signal };
  const [first, second] = [
    await BackupSession.open(commitKey, [], deps),
    await BackupSession.open(commitKey, [], deps),
  ];
  cancel.abort(new Error("Ctrl-C"));
  await first[Symbol.asyncDispose]();
  const leases = async (): Promise<number> => {
    let count = 0;
    for await (const _ of inner.list("leases/")) count++;
    return count;
  };
  const left = await leases();
  store.isSilent = true;
  let hasEnded = false;
  const ended = second[Symbol.asyncDispose]().then(() => (hasEnded = true));
  while (!store.isAsked) await new Promise(setImmediate);
  await clock.advance(farewellMs - 1);
  assert.equal(hasEnded, false);
  await clock.advance(1);
  await ended;
  assert.equal(await leases(), left, "the lease of the second stays, for a collection to end");
  assert.ok(left > 0);
});
