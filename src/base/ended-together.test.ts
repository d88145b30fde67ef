// Goal: all parts end at once, each of them whatever becomes of the others, and errors are not lost.
import assert from "node:assert/strict";
import { test } from "node:test";

import { EndedTogether } from "./ended-together.ts";

test("ended together: none waits for another, and the first error is thrown when all have ended", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const ended: string[] = [];
  const owned = new EndedTogether();
  owned.use({
    [Symbol.asyncDispose]: async () => {
      await promise;
      ended.push("waits");
      throw new Error("of the first");
    },
  });
  owned.use({ [Symbol.asyncDispose]: () => Promise.reject(new Error("of the second")) });
  owned.use({
    [Symbol.asyncDispose]: () => {
      ended.push("frees");
      resolve();
      return Promise.resolve();
    },
  });
  await assert.rejects(owned[Symbol.asyncDispose](), { message: "of the first" });
  assert.deepEqual(ended, ["frees", "waits"]);
});
