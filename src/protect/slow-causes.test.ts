/** Goal: a slow backup names its cause and a usual one names none. Method: figures at both sides of each threshold. */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { RecoveryPointDisk } from "#vault/recovery-point.ts";
import {
  findSlowCauses,
  fragmentedRangeBytes,
  fragmentedRangesMin,
  highChurnBytes,
  highChurnBytesMin,
  highChurnShare,
} from "./slow-causes.ts";

const usual: RecoveryPointDisk = {
  name: "vda",
  sizeBytes: 2 ** 43,
  root: undefined,
  level: 0,
  tracking: "snapshot-difference",
  mappedBytes: highChurnBytesMin / highChurnShare,
  examinedBytes: 0,
  changedBytes: highChurnBytesMin - 1,
  newBytes: 0,
  storedBytes: 0,
  namedRanges: fragmentedRangesMin - 1,
  namedBytes: 1,
};

function causes(change: Partial<RecoveryPointDisk>): readonly string[] {
  return findSlowCauses({ disks: [{ ...usual, ...change }] }).map(({ cause }) => cause);
}

test("slow causes: a usual increment has none", () => {
  assert.deepEqual(causes({}), []);
  const namedBytes = fragmentedRangesMin * fragmentedRangeBytes;
  assert.deepEqual(causes({ namedRanges: fragmentedRangesMin, namedBytes }), []);
});

test("slow causes: each is named with its disk and why", () => {
  assert.deepEqual(causes({ tracking: "full" }), ["first-backup"]);
  assert.deepEqual(causes({ tracking: "full", trackingReason: "it is new" }), ["new-disk"]);
  assert.deepEqual(causes({ changedBytes: highChurnBytesMin }), ["high-churn"]);
  const mappedBytes = Number.MAX_SAFE_INTEGER;
  assert.deepEqual(causes({ changedBytes: highChurnBytes, mappedBytes }), ["high-churn"]);
  const namedBytes = fragmentedRangesMin * fragmentedRangeBytes - 1;
  assert.deepEqual(causes({ namedRanges: fragmentedRangesMin, namedBytes }), ["fragmented"]);
  const reason = { tracking: "checksum", trackingReason: "the base is gone" } as const;
  const [cause] = findSlowCauses({ disks: [{ ...usual, ...reason }] });
  assert.equal(cause?.disk, "vda");
  assert.match(cause.text, /the base is gone/);
});
