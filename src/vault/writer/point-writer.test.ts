// Goal: the figures of a point are true, progress adds up, and a point that is no good is refused
// before anything is read.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { pageBytes, windowBytes } from "#formats/geometry.ts";
import type { ManifestDisk } from "#formats/manifest.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { assertPointReads, backUp, pointIdOf } from "#testing/vault-points.ts";
import type { DiskInput } from "./point-writer.ts";

const random = createSeededRandom("point writer");
const mib = 1024 * 1024;

type Figures = Pick<
  ManifestDisk,
  "mappedBytes" | "examinedBytes" | "changedBytes" | "newBytes" | "storedBytes"
>;

function figuresOf(disk: ManifestDisk | undefined): Figures {
  assert.ok(disk);
  const { mappedBytes, examinedBytes, changedBytes, newBytes, storedBytes } = disk;
  return { mappedBytes, examinedBytes, changedBytes, newBytes, storedBytes };
}

test("point writer: figures say what was read, what differs, what was new and what it takes", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(8 * mib);
  disk.write(0, random.bytes(mib));
  disk.write(4 * mib, random.bytes(mib));
  const full = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  const sealed = 2 * (mib + 32);
  assert.deepEqual(figuresOf(full.manifest.disks[0]), {
    mappedBytes: 2 * mib,
    examinedBytes: 2 * mib,
    changedBytes: 2 * mib,
    newBytes: 2 * mib,
    storedBytes: sealed,
  });
  // Three new pages, one written with what it held, one zeroed, and a window that is all zeros now.
  for (const page of [3, 100, 1024]) disk.write(page * pageBytes, random.bytes(pageBytes));
  const same = new Uint8Array(pageBytes);
  disk.read(7 * pageBytes, same);
  disk.write(7 * pageBytes, same);
  disk.zero(9 * pageBytes, pageBytes);
  disk.zero(5 * mib - windowBytes, windowBytes);
  const next = await backUp(vault, { itemId: "vm", number: 2, disks: [disk], base: full });
  assert.deepEqual(figuresOf(next.manifest.disks[0]), {
    mappedBytes: 2 * mib - windowBytes,
    examinedBytes: 4 * pageBytes,
    changedBytes: 4 * pageBytes + windowBytes,
    newBytes: 3 * pageBytes,
    storedBytes: 3 * pageBytes + 32,
  });
  const clone = await backUp(vault, { itemId: "clone", number: 1, disks: [disk] });
  const { newBytes, storedBytes } = figuresOf(clone.manifest.disks[0]);
  // Windows in pieces are no blocks of their own yet.
  assert.deepEqual([newBytes, storedBytes], [3 * windowBytes, 3 * windowBytes + 32]);
  for (const kept of [full, next, clone]) await assertPointReads(vault, kept);
});

test("point writer: windows that the sweep stores anew do not count as changed", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(8 * mib);
  disk.write(0, random.bytes(8 * mib));
  let kept = await backUp(vault, { itemId: "vm", number: 1, disks: [disk] });
  for (let page = 0; page < 512; page += 2) disk.write(page * pageBytes, random.bytes(pageBytes));
  kept = await backUp(vault, { itemId: "vm", number: 2, disks: [disk], base: kept });
  disk.write(pageBytes, random.bytes(pageBytes));
  for (let page = 0; page < 300; page++) {
    disk.write(4 * mib + page * 3 * pageBytes, random.bytes(pageBytes));
  }
  const swept = await backUp(vault, { itemId: "vm", number: 3, disks: [disk], base: kept });
  const figures = figuresOf(swept.manifest.disks[0]);
  assert.equal(figures.changedBytes, 301 * pageBytes);
  const anew = (figures.newBytes - 300 * pageBytes) / windowBytes;
  assert.ok(anew === 1 || anew === 2, `${anew} windows were stored anew`);
  await assertPointReads(vault, swept);
});

test("point writer: progress of each disk ends with its total", async () => {
  await using vault = await openTestVault();
  const disks = [6, 3].map((size) => {
    const disk = new MemoryDisk(size * mib);
    disk.write(0, random.bytes(disk.sizeBytes));
    return disk;
  });
  const reports = new Map<string, number[]>();
  const totals = new Map<string, number>();
  const inputs = disks.map((disk, at): DiskInput => {
    return { name: `d${at}`, reader: createMemoryReader(disk), tracking: "full" };
  });
  await vault.writePoint(
    { point: pointOf("progress"), disks: inputs },
    {
      onProgress: ({ disk, doneBytes, totalBytes }) => {
        reports.set(disk, [...(reports.get(disk) ?? []), doneBytes]);
        totals.set(disk, totalBytes);
      },
    },
  );
  for (const [name, done] of reports) {
    assert.deepEqual(
      done,
      done.toSorted((a, b) => a - b),
    );
    assert.equal(done.at(-1), totals.get(name));
  }
  assert.deepEqual(
    totals,
    new Map([
      ["d0", 6 * mib],
      ["d1", 3 * mib],
    ]),
  );
});

function pointOf(
  itemName: string,
): Parameters<Awaited<ReturnType<typeof openTestVault>>["writePoint"]>[0]["point"] {
  return { pointId: pointIdOf(1), itemId: "vm", itemName, takenAtMs: 1, consistency: "crash" };
}

test("point writer: refuses a point that could not be read back, before it reads a byte", async () => {
  await using vault = await openTestVault();
  const disk = new MemoryDisk(mib);
  disk.write(0, random.bytes(mib));
  const reader = createMemoryReader(disk, {
    onRead: () => assert.fail("nothing is read"),
  });
  const good: DiskInput = { name: "vda", reader, tracking: "full" };
  const bad = [
    { point: pointOf("x".repeat(5000)), disks: [good] },
    { point: pointOf("vm"), disks: [good, good] },
    { point: { ...pointOf("vm"), frozenMs: 0.5 }, disks: [good] },
    { point: pointOf("vm"), disks: [{ ...good, source: "x".repeat(5000) }] },
  ];
  for (const input of bad) {
    await assert.rejects(vault.writePoint(input), (error) =>
      isKluisError(error, "ArgumentInvalid"),
    );
  }
  assert.deepEqual(await vault.listPoints(), []);
});

for (const [from, to] of [
  [1, 40],
  [20, 600],
] as const) {
  test(`point writer: a disk that grew from ${from} MiB to ${to} MiB, by two levels of its map`, async () => {
    await using vault = await openTestVault();
    const small = new MemoryDisk(from * mib);
    small.write(0, random.bytes(mib));
    const { manifest } = await backUp(vault, { itemId: "vm", number: 1, disks: [small] });
    const grown = new MemoryDisk(to * mib);
    const bytes = new Uint8Array(small.sizeBytes);
    small.read(0, bytes);
    grown.write(0, bytes);
    for (const at of [0, from, to / 2, to - 2]) grown.write(at * mib, random.bytes(pageBytes));
    const reader = createMemoryReader(grown);
    const [disk] = manifest.disks;
    assert.ok(disk);
    const { changes } = await vault.findChanges(reader, disk, { name: "disk0" });
    const increment = { base: { disk, reader: createMemoryReader(small) }, changes };
    const next = await vault.writePoint({
      point: { ...pointOf("vm"), pointId: pointIdOf(2), basePointId: manifest.pointId },
      disks: [{ name: "disk0", reader, tracking: "checksum", increment }],
    });
    await assertPointReads(vault, { manifest: next.manifest, disks: [grown] });
  });
}
