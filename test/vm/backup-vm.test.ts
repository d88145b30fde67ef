/**
 * Goal: the main job on a real VM. Whatever it does while it is backed up, each recovery point holds
 * one instant of all disks, restores byte for byte, and boots. Method: warm lab VMs with two data
 * disks under writers; the frozen layers and the guest's own checksums are the witnesses.
 */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { openQemuHypervisor } from "#drivers/qemu/qemu-hypervisor.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import { injectedError } from "#testing/faulty-store.ts";
import { testSeed } from "#testing/seed.ts";
import {
  Acknowledgements,
  checkAcknowledgedRecords,
  startAcknowledgedWriter,
} from "../../lab/acknowledged-writer.ts";
import { checkExt4, readExt4File } from "../../lab/ext4.ts";
import {
  hashGuestFile,
  killInGuest,
  runInGuest,
  syncGuest,
  writeRandomPages,
  writeSeededFile,
} from "../../lab/guest.ts";
import { inGuest, pathsOf } from "../../scripts/demo/demo-vm.ts";
import { mustRun } from "../integration/disk-images.ts";
import { createProtectedVm, findDifference, type ProtectedVm } from "./protected-vm.ts";

const MiB = 1024 * 1024;
const pageBytes = 4096;
const waitMs = 120_000;
const muteAfterMs = 4000;

/** Compares the newest snapshot's frozen disks with those of a restored VM. */
async function assertSameAsFrozen(world: ProtectedVm, directory: string): Promise<void> {
  const snapshot = (await world.vm.hypervisor.listSnapshots(world.vm.vmId)).at(-1);
  assert.ok(snapshot);
  for (const disk of snapshot.disks) {
    await using frozen = await disk.open();
    await using restored = await openDiskImage(join(directory, `${disk.name}.raw`), {
      format: "raw",
    });
    assert.equal(await findDifference(frozen, restored), undefined, `disk ${disk.name}`);
  }
}

/** Whether the guest's agent answers within a few seconds; it does where its channel opens. */
async function answers(agentSocket: string): Promise<boolean> {
  const limit = AbortSignal.timeout(muteAfterMs);
  return inGuest(agentSocket, limit, async () => Promise.resolve(true)).catch(() => false);
}

function changedBytesOf(point: RecoveryPoint, name: string): number {
  return point.disks.find((disk) => disk.name === name)?.changedBytes ?? Number.NaN;
}

test("vm backup: a VM under writers is backed up, changed, backed up again, restored, and boots", async () => {
  await using world = await createProtectedVm();
  const { vm } = world;
  const { hypervisor, exec, vmId } = vm;
  await hypervisor.start(vmId);
  const seed = testSeed();
  const sizeBytes = 24 * MiB;
  await writeSeededFile(exec, "/data/vdc/file", { seed: 7, sizeBytes });
  const writer = await startAcknowledgedWriter(exec, "/data/vdb/records", seed);
  using acknowledged = await Acknowledgements.open(vm.paths.ackSocket, seed);
  await acknowledged.waitFor(20, waitMs);

  const first = await world.backUp();
  assert.equal(first.manifest.consistency, "file-system");
  assert.ok(first.manifest.disks.every(({ tracking }) => tracking === "full"));
  assert.deepEqual(first.warnings, []);

  const sum = await writeRandomPages(exec, "/data/vdc/file", { seed: 8, pages: 100 });
  await syncGuest(exec);
  await acknowledged.waitFor(acknowledged.lastNumber + 20, waitMs);
  let heardBefore = -1;
  const heard = acknowledged.lastNumber;
  const second = await world.backUp({
    onSnapshot: () => {
      heardBefore = acknowledged.lastNumber;
    },
  });
  assert.ok(second.manifest.disks.every(({ tracking }) => tracking === "snapshot-difference"));
  const changed = changedBytesOf(second.manifest, "vdc");
  assert.ok(changed >= 100 * pageBytes && changed < 200 * pageBytes, `${changed} bytes changed`);
  assert.equal(second.manifest.basePointId, first.manifest.pointId);
  assert.deepEqual(
    (await hypervisor.listSnapshots(vmId)).map(({ id }) => id),
    [first.manifest.snapshotId, second.manifest.snapshotId],
  );
  await acknowledged.waitFor(heardBefore + 5, waitMs);

  const restored = await world.restore(second.manifest, "restored");
  await assertSameAsFrozen(world, restored.directory);
  const raw = (name: string): string => join(restored.directory, `${name}.raw`);
  for (const name of ["vdb", "vdc"]) assert.ok((await checkExt4(raw(name))).isClean, name);
  const records = (await readExt4File(raw("vdb"), "/records")) ?? new Uint8Array();
  const intact = checkAcknowledgedRecords(records, { seed, lastNumber: heard });
  assert.ok(intact > heard, `${intact} of ${heard} acknowledged records`);
  await killInGuest(exec, writer);

  await using other = await openQemuHypervisor({
    ...vm.options,
    descriptionPaths: [restored.configuration],
  });
  await hypervisor.stop(vmId, { shutdownTimeoutMs: 0 });
  await other.start("restored");
  const { agentSocket } = pathsOf(vm.stateDirectory, "restored");
  const found = await inGuest(agentSocket, AbortSignal.timeout(waitMs), (guest) =>
    hashGuestFile(guest, "/data/vdc/file"),
  );
  assert.equal(found, sum);
  await other.stop("restored", { shutdownTimeoutMs: 0 });
});

test("vm backup: without its base a disk is compared by checksum, says why, and sends changed pages only", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, exec, vmId } = world.vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 3, sizeBytes: 8 * MiB });
  await world.backUp();
  await hypervisor.detach(vmId);
  await writeRandomPages(exec, "/data/vdb/file", { seed: 4, pages: 20 });
  await syncGuest(exec);
  const { manifest } = await world.backUp();
  for (const disk of manifest.disks) {
    assert.equal(disk.tracking, "checksum", disk.name);
    assert.ok((disk.trackingReason ?? "").length > 10, disk.name);
  }
  const sent = manifest.disks.find(({ name }) => name === "vdb")?.newBytes ?? 0;
  assert.ok(sent >= 20 * pageBytes && sent < 100 * pageBytes, `${sent} bytes sent`);
  await assertSameAsFrozen(world, (await world.restore(manifest, "restored")).directory);
});

test("vm backup: a run that fails leaves the base, and the next one is an increment all the same", async () => {
  await using world = await createProtectedVm();
  const { store, vm } = world;
  const { hypervisor, exec, vmId } = vm;
  await hypervisor.start(vmId);
  await writeSeededFile(exec, "/data/vdb/file", { seed: 5, sizeBytes: 4 * MiB });
  const first = await world.backUp();
  const names: RegExp[] = [/^packs\//, /^index\//, /^maps\//, /^points\//];
  for (const [at, name] of names.entries()) {
    await writeRandomPages(exec, "/data/vdb/file", { seed: 20 + at, pages: 5 });
    const fault = { kind: "error", error: injectedError() } as const;
    store.inject({ method: "put", name, fault });
    await assert.rejects(world.backUp(), (error) => isKluisError(error, "StoreUnavailable"));
  }
  assert.equal((await hypervisor.listSnapshots(vmId)).length, 1 + names.length);
  const { manifest } = await world.backUp();
  assert.equal(manifest.basePointId, first.manifest.pointId);
  assert.ok(manifest.disks.every(({ tracking }) => tracking === "snapshot-difference"));
  assert.ok(changedBytesOf(manifest, "vdb") >= 5 * pageBytes);
  assert.equal((await hypervisor.listSnapshots(vmId)).length, 2 + names.length);
  await assertSameAsFrozen(world, (await world.restore(manifest, "restored")).directory);
});

test("vm backup: cancelled at any moment it leaves a guest that goes on and no recovery point", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, exec, vmId } = world.vm;
  await hypervisor.start(vmId);
  await runInGuest(exec, "true");
  const before = (await world.backUp()).manifest.pointId;
  for (const delayMs of [0, 40, 90, 150, 220, 300, 500]) {
    const controller = new AbortController();
    const reason = new KluisError("Cancelled", "Cannot finish: the test cancelled it");
    const timer = setTimeout(() => {
      controller.abort(reason);
    }, delayMs);
    const outcome = await world.backUp({ signal: controller.signal }).then(
      ({ manifest }) => manifest.pointId,
      (error: unknown) => error,
    );
    clearTimeout(timer);
    if (typeof outcome !== "string") assert.ok(isKluisError(outcome, "Cancelled"), String(outcome));
    // The agent answers exec only while nothing is frozen.
    await runInGuest(exec, "touch /data/vdb/alive /data/vdc/alive; sync");
  }
  const { manifest } = await world.backUp();
  assert.ok(manifest.pointId > before);
  await assertSameAsFrozen(world, (await world.restore(manifest, "restored")).directory);
});

test("vm backup: a disk that was added is read in full, one that was removed is absent, others go on", async () => {
  await using world = await createProtectedVm({ start: "cold" });
  const { lab, hypervisor, vmId } = world.vm;
  await world.backUp({ consistency: "crash" });
  await hypervisor.detach(vmId);
  const added = join(lab.directory, "vdx.qcow2");
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", added, "16M"]);
  await mustRun("qemu-io", ["-c", "write -P 7 1M 64k", added]);
  const description = JSON.parse(await readFile(lab.descriptionPath, "utf8")) as {
    disks: { name: string }[];
  };
  const disks = description.disks.filter(({ name }) => name !== "vdc");
  const changed = {
    ...description,
    disks: [...disks, { name: "vdx", path: added, format: "qcow2" }],
  };
  await writeFile(lab.descriptionPath, JSON.stringify(changed));
  const { manifest } = await world.backUp({ consistency: "crash" });
  assert.deepEqual(
    manifest.disks.map(({ name, tracking }) => [name, tracking]),
    [
      ["vda", "checksum"],
      ["vdb", "checksum"],
      ["vdx", "full"],
    ],
  );
  assert.match(manifest.disks[2]?.trackingReason ?? "", /has no disk "vdx"/);
  await assertSameAsFrozen(world, (await world.restore(manifest, "restored")).directory);
});

test("vm backup: a stopped VM and a guest without an answering agent give crash-consistent points", async () => {
  await using world = await createProtectedVm();
  const { hypervisor, exec, vmId } = world.vm;
  const stopped = await world.backUp();
  assert.equal(stopped.manifest.consistency, "crash");
  assert.match(stopped.manifest.consistencyReason ?? "", /off|stopped|not run/);
  await hypervisor.start(vmId);
  // Later, so that this call itself is still answered.
  const stopAgent = "sleep 1; kill -STOP $(pidof qemu-ga)";
  await runInGuest(exec, `setsid sh -c '${stopAgent}' </dev/null >/dev/null 2>&1 &`);
  while (await answers(world.vm.paths.agentSocket)) continue;
  const mute = await world.backUp({ freezeBudgetMs: 2000 });
  assert.equal(mute.manifest.consistency, "crash");
  assert.match(mute.manifest.consistencyReason ?? "", /agent/);
  await assertSameAsFrozen(world, (await world.restore(mute.manifest, "restored")).directory);
});
