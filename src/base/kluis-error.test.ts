// Goal: whatever is thrown keeps the code that tells what to do, also where tidying up failed as well.
import assert from "node:assert/strict";
import { test } from "node:test";

import { KluisError, toKluisError } from "./kluis-error.ts";

test("kluis error: what work failed with counts, and not that tidying up failed after it", async () => {
  const full = new KluisError("StoreNoSpace", "Cannot store: the disk is full", {
    details: { bytes: 7 },
  });
  const work = async (): Promise<void> => {
    await using _ = {
      [Symbol.asyncDispose]: () => Promise.reject(new Error("the socket is gone")),
    };
    await using __ = {
      [Symbol.asyncDispose]: () => Promise.reject(new KluisError("Busy", "Cannot unlock: busy")),
    };
    throw full;
  };
  const error = toKluisError(await work().catch((reason: unknown) => reason));
  assert.equal(error.code, "StoreNoSpace");
  assert.deepEqual(error.details, { bytes: 7 });
  assert.equal(
    error.message,
    "Cannot store: the disk is full; then also: Cannot unlock: busy; then also: Cannot go on: the socket is gone",
  );
  assert.equal(toKluisError(full), full);
  assert.equal(toKluisError("odd").code, "Internal");
});
