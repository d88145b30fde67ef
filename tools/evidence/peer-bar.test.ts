/** Goal: a figure never looks better than it is. Method: values around the third digit. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { roundUp } from "./peer-bar.ts";

test("peer bar: rounds up, never down", () => {
  assert.deepEqual(
    [0.35, 0.3501, 0.3509, 1.0800001, 2, 0.0001].map((value) => roundUp(value)),
    ["0.350", "0.351", "0.351", "1.081", "2.000", "0.001"],
  );
});
