// Goal: runs hold for every byte exactly what each context said of it.
// Method: random descriptors against a model with one entry per byte.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { toStatusRuns } from "./status-runs.ts";

const contexts = [
  { id: 7, name: "a" },
  { id: 3, name: "b" },
];

test("status runs: agree with the descriptors byte by byte, as far as all reach", () => {
  const descriptor = fc.record({
    lengthBytes: fc.integer({ min: 1, max: 30 }),
    flags: fc.nat({ max: 3 }),
  });
  const descriptors = fc.array(descriptor, { minLength: 1, maxLength: 10 });
  fc.assert(
    fc.property(descriptors, descriptors, fc.nat({ max: 20 }), (a, b, skipBytes) => {
      const window = { offsetBytes: 100, startBytes: 100 + skipBytes, endBytes: 200 };
      const models = [a, b].map((list) =>
        list.flatMap(({ lengthBytes, flags }) => Array.from({ length: lengthBytes }, () => flags)),
      );
      const reachBytes = Math.min(100, ...models.map((model) => model.length));
      const statuses = new Map([
        [7, a],
        [3, b],
      ]);
      if (reachBytes <= skipBytes) {
        assert.throws(
          () => toStatusRuns(statuses, contexts, window),
          (error) => isKluisError(error, "NbdProtocol"),
        );
        return;
      }
      let atBytes = window.startBytes;
      for (const run of toStatusRuns(statuses, contexts, window)) {
        assert.equal(run.offsetBytes, atBytes);
        for (; atBytes < run.offsetBytes + run.lengthBytes; atBytes++) {
          assert.deepEqual(
            run.flags,
            models.map((model) => model[atBytes - 100]),
          );
        }
      }
      assert.equal(atBytes, 100 + reachBytes);
    }),
    { seed: testSeed(), numRuns: 1000 },
  );
});

test("status runs: a context that is missing or was not selected breaks the protocol", () => {
  const window = { offsetBytes: 0, startBytes: 0, endBytes: 10 };
  const one = [{ lengthBytes: 10, flags: 0 }];
  for (const ids of [[7], [7, 3, 4], []]) {
    assert.throws(
      () => toStatusRuns(new Map(ids.map((id) => [id, one])), contexts, window),
      (error) => isKluisError(error, "NbdProtocol"),
    );
  }
});
