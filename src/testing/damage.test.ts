// Goal: damage done to a copy leaves what was copied as it is, also where that is a Buffer.
import assert from "node:assert/strict";
import { test } from "node:test";

import { flipBit } from "./damage.ts";

test("damage: a bit is turned over in a copy, of a Buffer too", () => {
  for (const bytes of [
    Uint8Array.of(0, 0, 0),
    Buffer.from([0, 0, 0]),
    Buffer.alloc(9).subarray(3, 6),
  ]) {
    assert.deepEqual([...flipBit(bytes, 9)], [0, 2, 0]);
    assert.deepEqual([...bytes], [0, 0, 0]);
  }
});
