// Goal: change tracking is trusted only where it is certain; everything else is compared.
import assert from "node:assert/strict";
import { test } from "node:test";

import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";
import { planTracking } from "./tracking.ts";

const disk: RecoveryPointDisk = {
  name: "disk",
  sizeBytes: 4096,
  root: undefined,
  level: 0,
  tracking: "full",
  mappedBytes: 0,
  examinedBytes: 0,
  changedBytes: 0,
  newBytes: 0,
  storedBytes: 0,
  source: "file one as it was",
};
const base: RecoveryPoint = {
  pointId: "019ab3c0f8d2-7c1f0a9b3d5e4f60",
  itemId: "item",
  itemName: "item",
  takenAtMs: 0,
  committedAtMs: 0,
  consistency: "crash",
  disks: [disk],
};

test("tracking: the first point of an item is read in full", () => {
  assert.deepEqual(planTracking({ base: undefined, diskName: "disk" }), { method: "full" });
});

test("tracking: a disk that the last point does not have is read in full, and says so", () => {
  const plan = planTracking({ base, diskName: "other" });
  assert.equal(plan.method, "full");
  assert.match(plan.reason ?? "", /no disk "other"/);
});

test("tracking: an overlay counts only over the very file of the last point", () => {
  const exact = { base, diskName: "disk", backingIdentity: "file one as it was" };
  assert.equal(planTracking(exact).method, "overlay");
  const changed = planTracking({ ...exact, backingIdentity: "file one as it is now" });
  assert.ok(changed.method === "checksum" && changed.reason.includes("not the file"));
  const { source: _, ...unnamed } = disk;
  const unknown = planTracking({ ...exact, base: { ...base, disks: [unnamed] } });
  assert.ok(unknown.method === "checksum" && unknown.reason.includes("does not say"));
});

test("tracking: an image without changes to tell is compared, and says why", () => {
  const plan = planTracking({ base, diskName: "disk" });
  assert.ok(plan.method === "checksum" && plan.reason.includes("no qcow2 overlay"));
});

test("tracking: a bitmap that was asked for is used", () => {
  assert.equal(planTracking({ base, diskName: "disk", bitmap: "b" }).method, "bitmap");
  assert.equal(planTracking({ base: undefined, diskName: "disk", bitmap: "b" }).method, "full");
});
