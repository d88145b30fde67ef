/** Backups of disks in memory, and the proof that a recovery point reads back as they were. */
import assert from "node:assert/strict";

import { bytesEqual, isZero } from "#base/bytes.ts";
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import type { Manifest } from "#formats/manifest.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { computeWindowChecksum } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { walkMap } from "#vault/map/walk-map.ts";
import { NodeReader } from "#vault/reader/node-reader.ts";
import { copyToTarget } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";
import { createMemoryReader, createMemoryTarget, MemoryDisk } from "./memory-disk.ts";

/** A recovery point, and its disks as they were at its instant. */
export interface KeptPoint {
  readonly manifest: Manifest;
  readonly disks: readonly MemoryDisk[];
}

/** What {@link backUp} writes. */
export interface BackUpOptions {
  readonly itemId: string;
  /** Orders the points of an item; part of the id. */
  readonly number: number;
  /** Named `disk0` and so on; kept as they are now. */
  readonly disks: readonly MemoryDisk[];
  /** The point that this one is an increment of, with as many disks of the same sizes. */
  readonly base?: KeptPoint;
  readonly signal?: AbortSignal;
}

/** The id of the point of that number. */
export function pointIdOf(number: number): string {
  return `${number.toString(16).padStart(12, "0")}-${"0".repeat(16)}`;
}

/** Writes a point, in full or as an increment from exact changes; returns what must read back. */
export async function backUp(vault: Vault, options: BackUpOptions): Promise<KeptPoint> {
  const { base, number, itemId } = options;
  const disks = options.disks.map((disk) => disk.snapshot());
  const inputs = disks.map((disk, at): DiskInput => {
    const name = `disk${at}`;
    const reader = createMemoryReader(disk);
    const baseDisk = base?.manifest.disks[at];
    const baseContent = base?.disks[at];
    if (baseDisk === undefined || baseContent === undefined) {
      return { name, reader, tracking: "full" };
    }
    const increment = {
      base: { disk: baseDisk, reader: createMemoryReader(baseContent) },
      changes: disk.changesSince(baseContent),
    };
    return { name, reader, tracking: "snapshot-difference", increment };
  });
  const point = {
    pointId: pointIdOf(number),
    itemId,
    itemName: itemId,
    takenAtMs: number,
    consistency: "crash" as const,
    ...(base === undefined ? {} : { basePointId: base.manifest.pointId }),
  };
  const { signal } = options;
  const { manifest } = await vault.writePoint(
    { point, disks: inputs },
    signal === undefined ? {} : { signal },
  );
  return { manifest, disks };
}

/** Restores every disk of a point and compares it, byte for byte, with what it was. */
export async function assertPointReads(vault: Vault, kept: KeptPoint): Promise<void> {
  for (const [at, disk] of kept.manifest.disks.entries()) {
    await using reader = vault.openDisk(disk);
    const target = createMemoryTarget(disk.sizeBytes);
    await copyToTarget(reader, target.writer, { disksAtOnce: 4, onProgress: () => {} });
    const expected = kept.disks[at];
    const restored = target.committed();
    assert.ok(expected !== undefined && restored !== undefined);
    const isEqual = bytesEqual(restored.bytes(), expected.bytes());
    assert.ok(isEqual, `disk ${disk.name} of point ${kept.manifest.pointId} differs`);
  }
}

/** Compares the checksum of each window in the map with that of the window's content. */
export async function assertChecksums(
  vault: Vault,
  deps: { readonly store: ObjectStore; readonly keys: VaultKeys },
  kept: KeptPoint,
): Promise<void> {
  const access = new NodeReader({ ...deps, locator: vault.locator });
  const window = new Uint8Array(windowBytes);
  for (const [at, disk] of kept.manifest.disks.entries()) {
    const content = kept.disks[at] ?? new MemoryDisk(0);
    for await (const part of walkMap({ map: disk, access })) {
      for (let index = part.firstWindow; index < part.firstWindow + part.windowCount; index++) {
        const start = index * windowBytes;
        window.fill(0);
        content.read(start, window.subarray(0, Math.min(windowBytes, disk.sizeBytes - start)));
        const stored = part.leaf?.windows[index % leafWindows]?.checksum;
        const isMapped = stored !== undefined;
        assert.equal(isMapped, !isZero(window), `window ${index} is mapped where it is not zeros`);
        if (!isMapped) continue;
        const expected = computeWindowChecksum(deps.keys.checksumKey, window);
        assert.ok(bytesEqual(stored, expected), `the checksum of window ${index}`);
      }
    }
  }
}
