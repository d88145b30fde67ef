/**
 * Goal: whatever is snapshotted, released and read in whatever order, every snapshot that is still
 * listed shows what it showed, the active disk too, and no layer under a reader is written. Method:
 * a model disk whose layers are maps; merges do on the maps what a commit does on images.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { testSeed } from "#testing/seed.ts";
import {
  frozenLayers,
  planRelease,
  withMergedLayers,
  withNewLayers,
  withoutTopLayers,
} from "./layer-changes.ts";
import {
  activeLayer,
  findDisk,
  findSnapshot,
  type SnapshotDiskRecord,
  type VmRecord,
} from "./vm-record.ts";

const disks = ["vda", "vdb"];
const pages = 6;

const start: VmRecord = {
  vmId: "m",
  nextLayer: 1,
  hasStarted: false,
  disks: disks.map((name) => ({
    name,
    describedPath: `/d/${name}`,
    layers: [{ number: 0, path: `/d/${name}`, format: "raw" }],
  })),
  snapshots: [],
  garbage: [],
};

type Action =
  | { readonly kind: "write"; readonly disk: number; readonly page: number; readonly value: number }
  | { readonly kind: "snapshot"; readonly recorded: boolean }
  | { readonly kind: "release"; readonly ids: number; readonly read: number }
  | { readonly kind: "failed-snapshot" };

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      disk: fc.nat({ max: disks.length - 1 }),
      page: fc.nat({ max: pages - 1 }),
      value: fc.integer({ min: 1, max: 99 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("snapshot" as const), recorded: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("release" as const),
      /** One bit for each snapshot: whether it is to go. */
      ids: fc.nat({ max: 255 }),
      /** One bit for each snapshot: whether somebody reads it. */
      read: fc.nat({ max: 255 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("failed-snapshot" as const) }) },
);

type Layer = Map<number, number>;

/** The images: content of each layer by its path. */
class Images {
  readonly layers = new Map<string, Layer>();

  layer(path: string): Layer {
    const known = this.layers.get(path) ?? new Map<number, number>();
    this.layers.set(path, known);
    return known;
  }

  /** What a guest sees of the layers of a disk up to `number`. */
  view(record: VmRecord, disk: string, number: number): readonly number[] {
    const chain = findDisk(record, disk)?.layers.filter((layer) => layer.number <= number) ?? [];
    return Array.from({ length: pages }, (_, page) => {
      const holder = chain.findLast((layer) => this.layer(layer.path).has(page));
      return holder === undefined ? 0 : (this.layer(holder.path).get(page) ?? 0);
    });
  }
}

function layersAt(parts: readonly SnapshotDiskRecord[], diskName: string): readonly number[] {
  return parts.filter(({ name }) => name === diskName).map(({ layer }) => layer);
}

class Model {
  record = start;
  readonly images = new Images();
  readonly expected = new Map<string, readonly (readonly number[])[]>();

  apply(each: Action): void {
    switch (each.kind) {
      case "write": {
        const disk = findDisk(this.record, disks[each.disk] ?? "");
        assert.ok(disk !== undefined);
        this.images.layer(activeLayer(disk).path).set(each.page, each.value);
        break;
      }
      case "snapshot":
        this.snapshot(each.recorded);
        break;
      case "failed-snapshot": {
        const before = this.record;
        this.addLayers();
        this.record = withoutTopLayers(this.record, before.nextLayer);
        assert.deepEqual(this.record.disks, before.disks);
        break;
      }
      case "release":
        this.release(each);
        break;
    }
    this.check();
  }

  /** Without `recorded`: a run that died after the layers were added. */
  snapshot(recorded: boolean): void {
    const id = `s${String(this.record.nextLayer)}`;
    const frozen = this.record.disks.map((disk) => activeLayer(disk).number);
    this.addLayers();
    if (!recorded) return;
    const taken = this.record.disks.map((disk, at) => ({
      name: disk.name,
      sizeBytes: pages,
      layer: frozen[at] ?? 0,
    }));
    const snapshot = {
      id,
      takenAtMs: 0,
      consistency: { consistency: "crash" },
      disks: taken,
    } as const;
    this.record = { ...this.record, snapshots: [...this.record.snapshots, snapshot] };
    this.expected.set(
      id,
      taken.map((disk) => this.images.view(this.record, disk.name, disk.layer)),
    );
  }

  addLayers(): void {
    const number = this.record.nextLayer;
    const layers = new Map(
      disks.map((name) => [
        name,
        { number, path: `/d/${name}.${String(number)}`, format: "qcow2" as const },
      ]),
    );
    this.record = { ...withNewLayers(this.record, layers), nextLayer: number + 1 };
  }

  release(each: { readonly ids: number; readonly read: number }): void {
    const { snapshots } = this.record;
    const chosen = (bits: number): ReadonlySet<string> =>
      new Set(snapshots.filter((_, at) => ((bits >> at) & 1) === 1).map(({ id }) => id));
    const read = chosen(each.read);
    const plan = planRelease(this.record, chosen(each.ids), read);
    assert.ok(!plan.dropped.some((snapshot) => read.has(snapshot.id)), "what is read stays");
    const left = snapshots.filter((snapshot) => !plan.dropped.includes(snapshot));
    this.record = { ...this.record, snapshots: left };
    for (const merge of plan.merges) this.merge(merge, read);
    if (plan.blockedBy.length > 0) return;
    assert.ok(!left.some(({ id }) => chosen(each.ids).has(id)), "all that was to go is gone");
    for (const disk of this.record.disks) {
      const kept = new Set(
        this.record.snapshots.flatMap(({ disks: parts }) => layersAt(parts, disk.name)),
      );
      const spare = frozenLayers(disk).filter(({ number }) => !kept.has(number));
      assert.ok(spare.length <= 1, "each layer but the newest frozen one is the top of a snapshot");
    }
  }

  merge(
    merge: { readonly diskName: string; readonly into: number; readonly upTo: number },
    read: ReadonlySet<string>,
  ): void {
    const disk = findDisk(this.record, merge.diskName);
    assert.ok(disk !== undefined);
    assert.ok(merge.upTo < activeLayer(disk).number, "the active layer is not merged");
    for (const id of read) {
      const layer = findSnapshot(this.record, id)?.disks.find(
        (each) => each.name === disk.name,
      )?.layer;
      assert.ok(merge.into > (layer ?? -1), "no layer under a reader is written");
    }
    const range = disk.layers.filter(
      (layer) => layer.number > merge.into && layer.number <= merge.upTo,
    );
    const into = disk.layers.find((layer) => layer.number === merge.into);
    assert.ok(into !== undefined);
    for (const layer of range) {
      for (const [page, value] of this.images.layer(layer.path)) {
        this.images.layer(into.path).set(page, value);
      }
    }
    this.record = withMergedLayers(
      this.record,
      disk.name,
      range.map((layer) => layer.number),
    );
    for (const path of this.record.garbage) this.images.layers.delete(path);
    this.record = { ...this.record, garbage: [] };
  }

  check(): void {
    for (const snapshot of this.record.snapshots) {
      const views = snapshot.disks.map((disk) =>
        this.images.view(this.record, disk.name, disk.layer),
      );
      assert.deepEqual(views, this.expected.get(snapshot.id), snapshot.id);
    }
  }
}

test("layer changes: every listed snapshot shows what it showed, and the disk too", () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const model = new Model();
      const disk = disks.map(() => Array.from({ length: pages }, () => 0));
      for (const each of actions) {
        model.apply(each);
        if (each.kind === "write") (disk[each.disk] ?? [])[each.page] = each.value;
        const now = disks.map((name) => model.images.view(model.record, name, Infinity));
        assert.deepEqual(now, disk);
      }
    }),
    { seed: testSeed(), numRuns: 2000 },
  );
});

test("layer changes: a reader blocks what it must and nothing more", () => {
  const model = new Model();
  for (let at = 0; at < 4; at += 1) model.snapshot(true);
  const [first = "", second = "", third = "", fourth = ""] = model.record.snapshots.map(
    (snapshot) => snapshot.id,
  );
  const plan = planRelease(model.record, new Set([first, second, third]), new Set([first]));
  assert.deepEqual(plan.blockedBy, [first]);
  assert.deepEqual(plan.merges[0], { diskName: "vda", into: 1, upTo: 3 });
  const newer = planRelease(model.record, new Set([first, second]), new Set([fourth]));
  assert.deepEqual(newer.merges, []);
  assert.deepEqual(newer.blockedBy, [fourth]);
  const free = planRelease(model.record, new Set(), new Set([fourth]));
  assert.deepEqual(free, { dropped: [], merges: [], blockedBy: [] });
});

test("layer changes: one from the middle goes into the layer above an instant that stays", () => {
  const model = new Model();
  for (let at = 0; at < 4; at += 1) model.snapshot(true);
  const [, second = "", , fourth = ""] = model.record.snapshots.map((snapshot) => snapshot.id);
  const middle = planRelease(model.record, new Set([second]), new Set());
  assert.deepEqual(middle.merges[0], { diskName: "vda", into: 1, upTo: 2 });
  const newest = planRelease(model.record, new Set([fourth]), new Set());
  assert.deepEqual(newest.merges, [], "nothing frozen lies above it");
});
