/**
 * Goal: whatever happens to a disk between backups, every recovery point reads back exactly as the
 * disk was. Method: seeded rounds of writes, zeros and resizes on a disk in memory; each round is
 * backed up as an increment from exact or too wide extents, by checksums, or in full; the vault is
 * reopened now and then; at the end (and for the newest point in each round) every point is
 * compared with the copy of the disk that was kept, byte for byte.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Manifest } from "#formats/manifest.ts";
import type { Extent } from "#ports/disk.ts";
import { createMemoryReader, createMemoryTarget, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { takesAll } from "#testing/slice.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { copyToTarget } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";

const page = 4096;
const rounds = process.env["KLUIS_LONG"] === "1" ? 200 : takesAll ? 24 : 12;

interface Kept {
  readonly manifest: Manifest;
  readonly disk: MemoryDisk;
}

function copyOf(disk: MemoryDisk, sizeBytes = disk.sizeBytes): MemoryDisk {
  const copy = new MemoryDisk(sizeBytes);
  for (const extent of disk.extents()) {
    if (extent.kind === "zero") continue;
    const lengthBytes = Math.min(extent.lengthBytes, sizeBytes - extent.offsetBytes);
    if (lengthBytes <= 0) continue;
    const bytes = new Uint8Array(lengthBytes);
    disk.read(extent.offsetBytes, bytes);
    copy.write(extent.offsetBytes, bytes);
  }
  return copy;
}

async function assertPointReads(vault: Vault, kept: Kept): Promise<void> {
  const disk = kept.manifest.disks[0];
  assert.ok(disk);
  await using reader = vault.openDisk(disk);
  const target = createMemoryTarget(disk.sizeBytes);
  await copyToTarget(reader, target.writer, { disksAtOnce: 4, onProgress: () => {} });
  const restored = target.committed();
  assert.ok(restored);
  const expected = new Uint8Array(1024 * 1024);
  const actual = new Uint8Array(1024 * 1024);
  for (let at = 0; at < disk.sizeBytes; at += expected.byteLength) {
    const length = Math.min(expected.byteLength, disk.sizeBytes - at);
    kept.disk.read(at, expected.subarray(0, length));
    restored.read(at, actual.subarray(0, length));
    assert.ok(
      Buffer.compare(expected.subarray(0, length), actual.subarray(0, length)) === 0,
      `point ${kept.manifest.pointId} differs near ${at}`,
    );
  }
}

test("vault: reads every recovery point back as the disk was", async () => {
  const random = createSeededRandom("vault model");
  const store = createMemoryStore();
  let vault = await openTestVault({ store });
  let disk = new MemoryDisk(24 * 1024 * 1024 + 512 * 5);
  const points: Kept[] = [];
  for (let round = 0; round < rounds; round++) {
    if (random.integer(0, 5 - 1) === 0) {
      const sizeBytes = (random.integer(0, 36 * 2048 - 1) + 2) * 512;
      disk = copyOf(disk, sizeBytes);
    }
    const touched = new Set<number>();
    const writes = random.integer(0, 40 - 1);
    for (let write = 0; write < writes; write++) {
      const pages =
        random.integer(0, 10 - 1) === 0
          ? random.integer(0, 300 - 1) + 1
          : random.integer(0, 3 - 1) + 1;
      const first = random.integer(0, Math.ceil(disk.sizeBytes / page) - 1);
      const offset = first * page;
      const length = Math.min(pages * page, disk.sizeBytes - offset);
      if (random.integer(0, 4 - 1) === 0) disk.zero(offset, length);
      else if (random.integer(0, 6 - 1) === 0)
        disk.write(offset, new Uint8Array(length).fill(round % 3));
      else disk.write(offset, random.bytes(length));
      for (let at = first; at < Math.ceil((offset + length) / page); at++) touched.add(at);
    }
    const pointId = `${round.toString(16).padStart(12, "0")}-0000000000000000`;
    const base = points.at(-1);
    const fresh = copyOf(disk);
    await using reader = createMemoryReader(fresh);
    const input = await planInput(vault, { base, reader, fresh, touched, random });
    await using _baseReader = input.base;
    const { manifest } = await vault.writePoint({
      point: {
        pointId,
        itemId: "disk under test",
        itemName: "disk",
        takenAtMs: round,
        consistency: "crash",
        ...(base === undefined ? {} : { basePointId: base.manifest.pointId }),
      },
      disks: [input.disk],
    });
    const kept = { manifest, disk: fresh };
    points.push(kept);
    assertMappedBytes(kept);
    if (random.integer(0, 4 - 1) === 0) {
      await vault[Symbol.asyncDispose]();
      vault = await openTestVault({ store, workers: 1 + random.integer(0, 2 - 1) });
    }
    await assertPointReads(vault, kept);
  }
  await vault[Symbol.asyncDispose]();
  vault = await openTestVault({ store });
  assert.equal((await vault.listPoints("disk under test")).length, points.length);
  for (const kept of points) await assertPointReads(vault, kept);
  await vault[Symbol.asyncDispose]();
});

function assertMappedBytes({ manifest, disk }: Kept): void {
  const window = 256 * 1024;
  let mapped = 0;
  for (let at = 0; at < disk.sizeBytes; at += window) {
    const bytes = new Uint8Array(Math.min(window, disk.sizeBytes - at));
    disk.read(at, bytes);
    if (bytes.some((byte) => byte !== 0)) mapped += window;
  }
  assert.equal(manifest.disks[0]?.mappedBytes, mapped, "mapped bytes are what is not zeros");
}

async function planInput(
  vault: Vault,
  state: {
    readonly base: Kept | undefined;
    readonly reader: ReturnType<typeof createMemoryReader>;
    readonly fresh: MemoryDisk;
    readonly touched: ReadonlySet<number>;
    readonly random: ReturnType<typeof createSeededRandom>;
  },
): Promise<{ disk: DiskInput; base: AsyncDisposable | undefined }> {
  const { base, reader, touched, random, fresh } = state;
  const old = base?.manifest.disks[0];
  const kind = random.integer(0, 8 - 1);
  if (base === undefined || old === undefined || kind === 0) {
    return { disk: { name: "vda", reader, tracking: "full" }, base: undefined };
  }
  const fromVault = random.integer(0, 2 - 1) === 0;
  const baseReader = fromVault ? vault.openDisk(old) : createMemoryReader(base.disk);
  if (kind <= 3) {
    const found = await vault.findChanges(reader, old, { name: "vda" });
    const increment = {
      base: { disk: old, reader: baseReader },
      changes: found.changes,
    };
    const disk: DiskInput = { name: "vda", reader, tracking: "checksum", increment };
    return { disk, base: baseReader };
  }
  const changes: Extent[] = [];
  const last = Math.ceil(Math.min(old.sizeBytes, fresh.sizeBytes) / page);
  for (const at of [...touched].sort((a, b) => a - b)) {
    if (at >= last) continue;
    const offsetBytes = at * page;
    const lengthBytes = Math.min(page, fresh.sizeBytes - offsetBytes, old.sizeBytes - offsetBytes);
    const bytes = new Uint8Array(lengthBytes);
    fresh.read(offsetBytes, bytes);
    const kind =
      bytes.every((byte) => byte === 0) && random.integer(0, 2 - 1) === 0 ? "zero" : "data";
    changes.push({ offsetBytes, lengthBytes, kind });
  }
  const increment = { base: { disk: old, reader: baseReader }, changes };
  return {
    disk: { name: "vda", reader, tracking: "snapshot-difference", increment },
    base: baseReader,
  };
}
