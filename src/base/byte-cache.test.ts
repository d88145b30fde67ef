// Goal: the cache keeps what was used last within its bytes, exactly as a plain model of it does.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { readTestSeed } from "#testing/seeded-random.ts";
import { ByteCache } from "./byte-cache.ts";

/** Entries from the one used longest ago to the one used last. */
class Model {
  entries: { key: string; value: number; bytes: number }[] = [];

  get(key: string): number | undefined {
    const entry = this.entries.find((other) => other.key === key);
    if (entry === undefined) return undefined;
    this.entries = [...this.entries.filter((other) => other !== entry), entry];
    return entry.value;
  }

  set(key: string, value: number, bytes: number, bytesMax: number): void {
    this.entries = this.entries.filter((other) => other.key !== key);
    if (bytes > bytesMax) return;
    this.entries.push({ key, value, bytes });
    while (this.entries.reduce((sum, entry) => sum + entry.bytes, 0) > bytesMax) {
      this.entries.shift();
    }
  }
}

const key = fc.constantFrom("a", "b", "c", "d", "e");
const step = fc.oneof(
  fc.record({ kind: fc.constant("get" as const), key }),
  fc.record({ kind: fc.constant("delete" as const), key }),
  fc.record({ kind: fc.constant("set" as const), key, bytes: fc.integer({ min: 0, max: 12 }) }),
);

test("byte cache: behaves as its model under any use", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 20 }), fc.array(step), (bytesMax, steps) => {
      const cache = new ByteCache<number>(bytesMax);
      const model = new Model();
      for (const [at, action] of steps.entries()) {
        if (action.kind === "set") {
          cache.set(action.key, at, action.bytes);
          model.set(action.key, at, action.bytes, bytesMax);
        } else if (action.kind === "delete") {
          cache.delete(action.key);
          model.entries = model.entries.filter((entry) => entry.key !== action.key);
        } else assert.equal(cache.get(action.key), model.get(action.key));
      }
      for (const { key, value } of model.entries) assert.equal(cache.get(key), value);
    }),
    { seed: readTestSeed(), numRuns: 2000 },
  );
});
