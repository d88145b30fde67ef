// Goal: faults strike exactly the calls they are meant for, and without them nothing is changed.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { FaultyStore, injectedError } from "./faulty-store.ts";
import { ManualClock } from "./manual-clock.ts";
import { RecordingStore } from "./recording-store.ts";
import { createSeededRandom } from "./seeded-random.ts";
import { listAll, testObjectStore } from "./suites/object-store-suite.ts";

const nothing = {
  async [Symbol.asyncDispose]() {
    // Memory only.
  },
};

testObjectStore("faulty store without faults", {
  open: async () => {
    const store = new FaultyStore(createMemoryStore());
    return { store, openAgain: async () => store, ...nothing };
  },
});

testObjectStore("recording store", {
  open: async () => {
    const store = await RecordingStore.open();
    return { store, openAgain: async () => store, ...nothing };
  },
});

const isInjected = (error: unknown): boolean => isKluisError(error, "StoreUnavailable");

test("faulty store: the next call fails, once, and has done nothing", async () => {
  const store = new FaultyStore(createMemoryStore());
  const error = new Error("mine");
  store.failNext("put", error);
  assert.equal(await store.stat("a"), undefined);
  await assert.rejects(store.put("a", []), error);
  assert.equal(store.isArmed, false);
  assert.equal(store.injected, 1);
  assert.equal(await store.put("a", []), "created");
  store.failNext("list");
  await assert.rejects(listAll(store), isInjected);
  assert.equal((await listAll(store)).size, 1);
});

test("faulty store: after a lost answer the object is there", async () => {
  const store = new FaultyStore(createMemoryStore());
  store.loseNextAnswer("put");
  await assert.rejects(store.put("a", [Uint8Array.of(1)]), isInjected);
  assert.equal(await store.put("a", [Uint8Array.of(1)]), "exists");
  store.loseNextAnswer("remove");
  await assert.rejects(store.remove("a"), isInjected);
  assert.equal(await store.stat("a"), undefined);
});

test("faulty store: faults count calls and look at names", async () => {
  const store = new FaultyStore(createMemoryStore());
  const fault = { kind: "error", error: injectedError() } as const;
  store.inject({ method: "put", fault, after: 1, times: 2, name: /^packs\// });
  const outcomes: string[] = [];
  for (const name of ["packs/1", "maps/1", "packs/2", "packs/3", "maps/2", "packs/4"]) {
    outcomes.push(
      await store.put(name, []).catch((error: unknown) => (isInjected(error) ? "failed" : "?")),
    );
  }
  assert.deepEqual(outcomes, ["created", "created", "failed", "failed", "created", "created"]);
  store.inject({ method: "any", fault, times: 3 });
  await assert.rejects(store.stat("packs/1"), isInjected);
  store.heal();
  assert.ok((await store.stat("packs/1")) !== undefined);
});

test("faulty store: a delay waits for the clock of the test", async () => {
  const store = new FaultyStore(createMemoryStore());
  const clock = new ManualClock();
  store.inject({ method: "put", fault: { kind: "delay", delayMs: 50, clock } });
  const put = store.put("a", []);
  await clock.advance(49);
  assert.equal(await store.stat("a"), undefined);
  await clock.advance(1);
  assert.equal(await put, "created");
});

test("faulty store: a disk gets full after so many bytes", async () => {
  const store = new FaultyStore(createMemoryStore());
  store.limitSpace(10);
  await store.put("a", [new Uint8Array(4), new Uint8Array(4)]);
  const isFull = (error: unknown): boolean => isKluisError(error, "StoreNoSpace");
  await assert.rejects(store.put("b", [new Uint8Array(3)]), isFull);
  await store.put("c", [new Uint8Array(2)]);
  await assert.rejects(store.put("d", [new Uint8Array(1)]), isFull);
  store.limitSpace(Number.POSITIVE_INFINITY);
  await store.put("d", [new Uint8Array(1)]);
  assert.deepEqual([...(await listAll(store)).keys()], ["a", "c", "d"]);
});

test("faulty store: faults by chance are the same for the same seed, and end", async () => {
  async function run(seed: number): Promise<string[]> {
    const store = new FaultyStore(createMemoryStore());
    const random = createSeededRandom("chance", seed);
    store.failByChance({ random, probability: 0.3, faultsMax: 20 });
    const outcomes: string[] = [];
    for (let at = 0; at < 200; at++) {
      outcomes.push(await store.put(`a/${at}`, []).catch(() => "failed"));
    }
    assert.equal(store.injected, 20);
    const stored = (await listAll(store)).size;
    assert.ok(stored > 180 && stored < 200, "some failed puts were lost answers, some were none");
    return outcomes;
  }
  const [one, same, other] = [await run(1), await run(1), await run(2)];
  assert.deepEqual(one, same);
  assert.notDeepEqual(one, other);
});
