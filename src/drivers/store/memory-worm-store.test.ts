// Goal: the WORM store in memory, which stands in for a bucket with object lock, keeps the promises of
// the store port. The same store runs on a real gateway in test/integration/worm-store.test.ts.
import { ManualClock } from "#testing/manual-clock.ts";
import { testObjectStore } from "#testing/suites/object-store-suite.ts";
import { createMemoryStore } from "./memory-store.ts";
import { createMemoryWormStore } from "./memory-worm-store.ts";

testObjectStore("memory WORM store", {
  open: async () => {
    const options = {
      policy: { periodMs: 1000, generationMs: 1000 },
      clock: new ManualClock(),
      versions: new Map(),
      control: createMemoryStore(),
    };
    return {
      store: createMemoryWormStore(options),
      openAgain: async () => createMemoryWormStore(options),
      async [Symbol.asyncDispose]() {},
    };
  },
});
