/**
 * Goal: a recovery point exists from its snapshot on, and whatever happens to Kluis and the VM meanwhile
 * it gets into the vault under the same id, byte for byte, and its snapshot goes when it is due and not
 * before. Method: the tasks on a real VM, two processes, kills in the middle, a clock that is set.
 */
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { createVmConfigurations } from "#drivers/qemu/vm-configurations.ts";
import { layersMax, type VmSnapshot } from "#ports/hypervisor.ts";
import { toVmItemId } from "#protect/backup-vm.ts";
import { dayMs } from "#protect/plan-expiry.ts";
import { fromSnapshotDisks } from "#protect/restore.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import { transferSnapshot } from "#protect/transfer-snapshot.ts";
import { fromSnapshot, listTieredPoints, tiersOf } from "#protect/vm-points.ts";
import { runInGuest, syncGuest, writeRandomPages, writeSeededFile } from "../../lab/guest.ts";
import { createProtectedVm, findDifference, type ProtectedVm } from "./protected-vm.ts";

const MiB = 1024 * 1024;

async function newestOf(world: ProtectedVm): Promise<VmSnapshot> {
  const snapshot = (await world.vm.hypervisor.listSnapshots(world.vm.vmId)).at(-1);
  assert.ok(snapshot !== undefined);
  return snapshot;
}

/** The tiers of every point, oldest first. */
async function tiers(world: ProtectedVm): Promise<readonly string[]> {
  const { hypervisor, vmId } = world.vm;
  const sources = { itemId: toVmItemId(vmId), vm: { hypervisor, vmId }, vault: world.vault };
  const { points } = await listTieredPoints(sources);
  return points.map((point) => tiersOf(point).join(" and "));
}

/** Sends the newest snapshot, as a later run of Kluis does. */
async function transfer(world: ProtectedVm) {
  const { vmId } = world.vm;
  return await transferSnapshot(
    { vmId, itemId: toVmItemId(vmId), space: { reserveBytes: 0 } },
    {
      hypervisor: await world.vm.reopen(),
      openVault: () => Promise.resolve(world.vault),
      clock: systemClock,
      random: { bytes: (lengthBytes) => new Uint8Array(lengthBytes) },
    },
  );
}

/** A clock that is so many days ahead. */
function clockIn(days: number) {
  return { ...systemClock, nowMs: () => systemClock.nowMs() + days * dayMs };
}

async function assertSameAsSnapshot(snapshot: VmSnapshot, directory: string): Promise<void> {
  for (const disk of snapshot.disks) {
    await using frozen = await disk.open();
    const path = join(directory, `${disk.name}.raw`);
    await using restored = await openDiskImage(path, { format: "raw" });
    assert.equal(await findDifference(frozen, restored), undefined, disk.name);
  }
}

test("tiers: snapshot, then snapshot and vault, then vault; the newest and the base outlive their days", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, vmId, exec } = world.vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 1, sizeBytes: 4 * MiB });
  const openVault = () =>
    Promise.reject(new KluisError("StoreUnavailable", "Cannot reach the store: the test says so"));
  const failed = await world.runJob({ days: 1, openVault });
  assert.equal(failed.status, "CompletedWithWarnings");
  assert.equal(failed.transfer.status, "Failed");
  assert.deepEqual(await tiers(world), ["snapshot"]);
  const snapshot = await newestOf(world);

  // Restored while the VM runs on and changes, without a vault.
  const point = fromSnapshot(snapshot);
  await writeRandomPages(exec, "/data/vdb/file", { seed: 2, pages: 50 });
  await syncGuest(exec);
  const directory = join(world.vm.lab.directory, "restored");
  await mkdir(directory);
  const targets = point.disks.map(({ name }) => ({
    diskName: name,
    place: join(directory, `${name}.raw`),
    format: "raw" as const,
  }));
  await restoreVm(
    point,
    { directory, targets, configuration: point.vmConfiguration ?? "", name: "restored" },
    {
      clock: systemClock,
      openDisk: fromSnapshotDisks(snapshot),
      images: imageAccess,
      configurations: createVmConfigurations([]),
    },
  );
  await assertSameAsSnapshot(snapshot, directory);

  // Sent later, after Kluis and the VM were restarted, under the same id.
  await world.vm.cutPower();
  const sent = await transfer(world);
  assert.equal(sent.status, "Completed");
  assert.equal(sent.outcome.manifest.pointId, point.pointId);
  assert.equal(sent.outcome.manifest.snapshotId, snapshot.id);
  const { preparationMs = 0, snapshotMs = 0 } = sent.outcome.manifest.timing ?? {};
  assert.ok(preparationMs >= 0 && snapshotMs > 0);
  assert.deepEqual(await tiers(world), ["snapshot and vault"]);
  assert.equal((await transfer(world)).status, "Skipped");

  await hypervisor.start(vmId);
  const later = await world.runJob({ days: 1, clock: clockIn(3) });
  assert.deepEqual(later.expiry.expired, [point.pointId]);
  assert.deepEqual(await tiers(world), ["vault", "snapshot and vault"]);
  const waiting = await world.runJob({ days: 1, openVault, clock: clockIn(9) });
  // The base of the next transfer and the newest are both over their days.
  assert.deepEqual(waiting.expiry.expired, []);
  assert.deepEqual(await tiers(world), ["vault", "snapshot and vault", "snapshot"]);
});

test("tiers: a transfer that was cut off is taken up by the next, and is byte for byte what was frozen", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, vmId, exec } = world.vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 11, sizeBytes: 8 * MiB });
  const first = await world.backUp();
  await writeRandomPages(exec, "/data/vdb/file", { seed: 12, pages: 200 });
  await syncGuest(exec);
  // Cut in the middle: what is put before the manifest stays, the manifest is not there.
  world.store.inject({
    method: "put",
    name: /^points\//,
    fault: { kind: "error", error: new KluisError("StoreUnavailable", "Cannot put: cut off") },
  });
  const cut = await world.runJob();
  assert.equal(cut.status, "CompletedWithWarnings");
  const snapshot = await newestOf(world);
  await writeRandomPages(exec, "/data/vdb/file", { seed: 13, pages: 200 });
  const sent = await transfer(world);
  assert.equal(sent.status, "Completed");
  const { manifest } = sent.outcome;
  assert.equal(manifest.pointId, snapshot.label?.pointId);
  assert.equal(manifest.basePointId, first.manifest.pointId);
  const stored = manifest.disks.reduce((sum, disk) => sum + disk.storedBytes, 0);
  assert.ok(stored < 200 * 4096, `${String(stored)} bytes were sent again`);
  const { directory } = await world.restore(manifest, "restored");
  await assertSameAsSnapshot(snapshot, directory);
});

test("tiers: a transfer that is due while another runs is skipped, and the next carries everything", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, vmId, exec } = world.vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 21, sizeBytes: 2 * MiB });
  const first = await world.backUp();
  const other = await world.vm.reopen();
  {
    await using _ = await other.beginTransfer(vmId);
    await writeRandomPages(exec, "/data/vdb/file", { seed: 22, pages: 20 });
    await syncGuest(exec);
    const job = await world.runJob();
    assert.equal(job.status, "Completed");
    assert.deepEqual(job.transfer, {
      status: "Skipped",
      reason: "the previous transfer is still running",
    });
  }
  await runInGuest(exec, "echo more >/data/vdb/more; sync");
  const { manifest } = await world.backUp();
  assert.equal(manifest.basePointId, first.manifest.pointId);
  assert.ok(manifest.disks.every(({ tracking }) => tracking === "snapshot-difference"));
  const changed = manifest.disks.find(({ name }) => name === "vdb")?.changedBytes ?? 0;
  assert.ok(changed >= 20 * 4096, `${String(changed)} bytes changed`);
  assert.deepEqual(await tiers(world), ["snapshot and vault", "snapshot", "snapshot and vault"]);
  const { directory } = await world.restore(manifest, "restored");
  await assertSameAsSnapshot(await newestOf(world), directory);
});

test("tiers: a snapshot that is read outlives its days; layers never pass their limit, and early expiry is told", async () => {
  await using world = await createProtectedVm({ start: "cold", dataDisksMiB: [4] });
  const { hypervisor, vmId } = world.vm;
  const snapshotOnly = { consistency: "crash", days: 30 } as const;
  const reject = { openVault: () => Promise.reject(new KluisError("StoreUnavailable", "no")) };
  await world.runJob({ ...snapshotOnly, ...reject, days: 1 });
  const oldest = await newestOf(world);
  await world.runJob({ ...snapshotOnly, ...reject });
  {
    await using _ = await (oldest.disks[0] as VmSnapshot["disks"][0]).open();
    const job = await world.runJob({ ...snapshotOnly, ...reject, clock: clockIn(2) });
    assert.deepEqual(job.expiry.expired, []);
    assert.match(job.warnings.join(), /somebody reads/);
  }
  const early: string[] = [];
  let most = 0;
  for (let run = 0; run < layersMax + 3; run++) {
    const job = await world.runJob({ ...snapshotOnly, ...reject });
    early.push(...job.expiry.early);
    for (const { layers } of await hypervisor.readSpace(vmId)) most = Math.max(most, layers);
    if (job.expiry.early.length > 0) assert.match(job.warnings.join(), /expired early/);
  }
  assert.ok(most <= layersMax - 1, `${String(most)} layers`);
  assert.ok(early.length >= 3, `${String(early.length)} went early`);
  const sent = await world.backUp({ consistency: "crash" });
  const { directory } = await world.restore(sent.manifest, "restored");
  await assertSameAsSnapshot(await newestOf(world), directory);
});

test("tiers: without room a snapshot is refused, and given up while it is sent, never the guest", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, vmId, exec } = world.vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 31, sizeBytes: 2 * MiB });
  const all = Number.MAX_SAFE_INTEGER;
  const space = { firstFreePercent: 50, reserveBytes: all };
  await assert.rejects(world.runJob({ space }), (error) => {
    assert.ok(isKluisError(error, "SnapshotNoSpace"));
    return /bytes free, \d+ are needed/.test(error.message);
  });
  assert.deepEqual(await hypervisor.listSnapshots(vmId), []);
  await world.backUp();
  await world.runJob({
    openVault: () => Promise.reject(new KluisError("StoreUnavailable", "not now")),
  });
  const fault = { kind: "delay", delayMs: 5000, clock: systemClock } as const;
  world.store.inject({ method: "put", name: /^packs\//, fault });
  const sending = transferSnapshot(
    { vmId, itemId: toVmItemId(vmId), space: { reserveBytes: all } },
    {
      hypervisor,
      openVault: () => Promise.resolve(world.vault),
      clock: systemClock,
      random: { bytes: (lengthBytes) => new Uint8Array(lengthBytes) },
    },
  );
  await assert.rejects(sending, (error) => isKluisError(error, "SnapshotNoSpace"));
  assert.deepEqual(await hypervisor.listSnapshots(vmId), []);
  await runInGuest(exec, "echo goes on >/data/vdb/more; sync");
  const { manifest } = await world.backUp();
  assert.equal(manifest.disks.find(({ name }) => name === "vdb")?.tracking, "checksum");
});
