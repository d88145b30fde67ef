// Goal: disks are restored side by side; if one fails the others stop, and what is incomplete has no
// name. Method: targets in memory that fail or wait as a test wants.
import assert from "node:assert/strict";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { systemClock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { ImageAccess, TargetInfo } from "#ports/source-image.ts";
import { createMemoryTarget, MemoryDisk, type MemoryTarget } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import type { WantedTarget } from "./plan-restore.ts";
import { applyRestore, fromVault, prepareRestore } from "./restore.ts";

const MiB = 1024 * 1024;

/** Places in memory, all absent; `onWrite` of a place may throw or wait. */
function createPlaces(
  onWrite: Readonly<Record<string, (signal: AbortSignal | undefined) => Promise<void> | void>> = {},
) {
  const targets = new Map<string, MemoryTarget>();
  const images: ImageAccess = {
    isUri: () => false,
    openSource: () => Promise.reject(new Error("a restore opens no source")),
    inspectTarget: async (): Promise<TargetInfo> => ({ kind: "absent" }),
    createTarget: async ({ place, sizeBytes }, signal) => {
      const wait = onWrite[place];
      const options = wait === undefined ? {} : { onWrite: () => wait(signal) };
      const target = createMemoryTarget(sizeBytes, options);
      targets.set(place, target);
      return target.writer;
    },
  };
  return { images, committed: (place: string) => targets.get(place)?.committed() };
}

async function createKept(vault: Vault): Promise<KeptPoint> {
  const prng = createPrng(testSeed());
  const disks = [6, 3, 2, 1, 1].map((size) => {
    const disk = new MemoryDisk(size * MiB);
    disk.write(0, prng.bytes(MiB / 2));
    return disk;
  });
  return backUp(vault, { itemId: "vm", number: 1, disks });
}

function targetsOf(kept: KeptPoint): readonly WantedTarget[] {
  return kept.manifest.disks.map(({ name }) => ({
    diskName: name,
    place: `/out/${name}`,
    format: "raw",
  }));
}

test("restore: writes every disk as it was", async () => {
  await using vault = await openTestVault();
  const kept = await createKept(vault);
  const { images, committed } = createPlaces();
  const request = { targets: targetsOf(kept), overwrite: false };
  const plan = await prepareRestore(kept.manifest, request, { images });
  const progress = new Map<string, number>();
  const outcome = await applyRestore(plan, {
    openDisk: fromVault(vault, kept.manifest),
    images,
    clock: systemClock,
    onProgress: ({ disk, doneBytes }) => {
      assert.ok(doneBytes >= (progress.get(disk) ?? 0));
      progress.set(disk, doneBytes);
    },
  });
  for (const [at, { planned, dataBytes, zeroBytes }] of outcome.disks.entries()) {
    const expected = present(kept.disks[at], "a disk was kept for each");
    assert.deepEqual(committed(planned.place)?.bytes(), expected.bytes());
    assert.equal(dataBytes + zeroBytes, expected.sizeBytes);
    assert.equal(progress.get(planned.diskName), expected.sizeBytes);
  }
});

test("restore: one failing target stops the others, and its error is the one told", async () => {
  await using vault = await openTestVault();
  const kept = await createKept(vault);
  const full = new KluisError("TargetNoSpace", "Cannot write: no space is left");
  const { images, committed } = createPlaces({
    // Stuck until the failure of the other one is known.
    "/out/disk0": (signal) =>
      new Promise((resolve) => signal?.addEventListener("abort", () => resolve())),
    "/out/disk1": () => {
      throw full;
    },
  });
  const request = { targets: targetsOf(kept).slice(0, 2), overwrite: false };
  const plan = await prepareRestore(kept.manifest, request, { images });
  const openDisk = fromVault(vault, kept.manifest);
  const restoring = applyRestore(plan, { openDisk, images, clock: systemClock });
  await assert.rejects(restoring, (error) => error === full);
  assert.equal(committed("/out/disk0"), undefined);
  assert.equal(committed("/out/disk1"), undefined);
});

test("restore: cancelled it leaves nothing", async () => {
  await using vault = await openTestVault();
  const kept = await createKept(vault);
  const controller = new AbortController();
  const reason = new KluisError("Cancelled", "Cannot finish: the test cancelled it");
  const { images, committed } = createPlaces({ "/out/disk0": () => controller.abort(reason) });
  const request = { targets: targetsOf(kept).slice(0, 1), overwrite: false };
  const plan = await prepareRestore(kept.manifest, request, { images });
  const { signal } = controller;
  const openDisk = fromVault(vault, kept.manifest);
  const restoring = applyRestore(plan, { openDisk, images, clock: systemClock, signal });
  await assert.rejects(restoring, (error) => isKluisError(error, "Cancelled"));
  assert.equal(committed("/out/disk0"), undefined);
});
