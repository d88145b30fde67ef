// Goal: the memory store, which the tests of everything above trust, keeps the port's promises.
import assert from "node:assert/strict";
import { test } from "node:test";

import { listAll, testObjectStore } from "#testing/suites/object-store-suite.ts";
import { createMemoryStore } from "./memory-store.ts";

testObjectStore("memory store", {
  open: async () => {
    const store = createMemoryStore();
    return {
      store,
      openAgain: async () => store,
      async [Symbol.asyncDispose]() {
        // Memory only.
      },
    };
  },
});

test("memory store: starts with a copy of what it is given", async () => {
  const content = Uint8Array.of(1);
  const store = createMemoryStore([["a/b", content]]);
  content.fill(9);
  assert.deepEqual([...(await store.get("a/b"))], [1]);
  assert.deepEqual(await listAll(store), new Map([["a/b", 1]]));
});
