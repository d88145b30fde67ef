/**
 * Goal: after another program's merge only the snapshots of what it wrote lose their place in the chain,
 * and nothing is named for removal. Method: one record, and what is left of its layers.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { planRelease } from "./layer-changes.ts";
import { withForeignMerge } from "./old-chains.ts";
import { findDisk, type VmRecord } from "./vm-record.ts";

const frozen = {
  device: "1",
  inode: "2",
  sizeBytes: 3,
  mtimeNs: "4",
  ctimeNs: "5",
  sampleHash: "6",
} as const;
const numbers = [0, 1, 2, 3] as const;

const record: VmRecord = {
  vmId: "m",
  nextLayer: 4,
  hasStarted: true,
  disks: [
    {
      name: "vda",
      describedPath: "/d/vda",
      layers: numbers.map((number) => ({
        number,
        path: `/d/vda.${String(number)}`,
        format: "qcow2",
        ...(number === 3 ? {} : { frozen }),
      })),
    },
  ],
  snapshots: [0, 1, 2].map((layer) => ({
    id: `s${String(layer)}`,
    takenAtMs: layer,
    consistency: { consistency: "crash" },
    disks: [{ name: "vda", sizeBytes: 4096, layer }],
  })),
  garbage: [],
};

function follow(used: readonly number[]): VmRecord {
  const [disk] = record.disks;
  assert.ok(disk !== undefined);
  return withForeignMerge(record, disk, used);
}

/** Layers of its own that each snapshot has. */
function ownLayers({ snapshots }: VmRecord): readonly (readonly number[] | undefined)[] {
  return snapshots.map(({ disks }) => disks[0]?.layers?.map(({ number }) => number));
}

test("old chains: what lies below a merge stays as it is, what was written is not trusted", () => {
  const merged = follow([0, 1, 3]);
  const disk = findDisk(merged, "vda");
  assert.deepEqual(
    disk?.layers.map((layer) => [layer.number, layer.frozen !== undefined]),
    [
      [0, true],
      [1, false],
      [3, false],
    ],
  );
  assert.deepEqual(disk?.left, ["/d/vda.2"]);
  assert.deepEqual(merged.garbage, []);
  assert.deepEqual(ownLayers(merged), [undefined, [0, 1], [0, 1, 2]]);
  const { merges } = planRelease(merged, new Set(), new Set());
  assert.deepEqual(merges, [], "the snapshot of layer 0 keeps it, and nothing frozen is above 1");
});

test("old chains: who reads a snapshot of another chain keeps layers of this one from being written", () => {
  const merged = follow([0, 2, 3]);
  assert.deepEqual(ownLayers(merged), [[0], [0, 1], [0, 1, 2]]);
  const wanted = planRelease(merged, new Set(), new Set());
  assert.deepEqual(wanted.merges, [{ diskName: "vda", into: 0, upTo: 2 }]);
  const read = planRelease(merged, new Set(), new Set(["s0"]));
  assert.deepEqual([read.merges, read.blockedBy], [[], ["s0"]]);
});

test("old chains: where nothing is gone nothing changes", () => {
  assert.equal(follow([0, 1, 2, 3]), record);
});
