/** Goal: a snapshot is refused exactly where its layers may not fit. Method: figures at both sides of each limit. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { type DiskSpace, layersMax } from "#ports/hypervisor.ts";
import { assertSnapshotSpace, findShortage, layersToFree } from "./snapshot-space.ts";

const disk: DiskSpace = {
  name: "vda",
  folder: "/a",
  fileSystem: "1",
  freeBytes: 100,
  allocatedBytes: 200,
  layers: 1,
};
const wish = { firstFreePercent: 50, reserveBytes: 10 };

function needed(disks: readonly DiskSpace[], given = wish): unknown {
  try {
    assertSnapshotSpace(disks, given);
    return undefined;
  } catch (error) {
    assert.ok(isKluisError(error, "SnapshotNoSpace"));
    assert.match(error.message, /"\/a" has \d+ bytes free/);
    return error.details["neededBytes"];
  }
}

test("snapshot space: first a part of what a disk takes, later its largest layer, always the reserve", () => {
  assert.equal(needed([disk]), undefined);
  assert.equal(needed([{ ...disk, freeBytes: 99 }]), 100);
  assert.equal(needed([{ ...disk, largestLayerBytes: 101 }]), 101);
  assert.equal(needed([{ ...disk, largestLayerBytes: 0 }], { ...wish, reserveBytes: 101 }), 101);
  assert.equal(
    needed([{ ...disk, freeBytes: 0 }], { firstFreePercent: 0, reserveBytes: 0 }),
    undefined,
  );
});

test("snapshot space: disks of one file system share it, others do not", () => {
  assert.equal(needed([disk, { ...disk, name: "vdb", folder: "/a/b" }]), 200);
  assert.equal(needed([disk, { ...disk, name: "vdb", fileSystem: "2" }]), undefined);
});

test("snapshot space: below the reserve the guest comes first", () => {
  assert.equal(findShortage([{ ...disk, freeBytes: 10 }], wish), undefined);
  assert.ok(isKluisError(findShortage([disk, { ...disk, freeBytes: 9 }], wish), "SnapshotNoSpace"));
});

test("snapshot space: one layer more than the next one stays free", () => {
  assert.equal(layersToFree([{ ...disk, layers: layersMax - 2 }]), 0);
  assert.equal(layersToFree([disk, { ...disk, layers: layersMax }]), 2);
});
