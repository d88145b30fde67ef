/**
 * Goal: layers are trusted only as they were frozen, merged only when nobody reads them, and taken
 * back whole when a snapshot fails. Method: real images and machines, and damage from outside.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmod, copyFile, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { addLayerNodes } from "#drivers/qemu/block-graph.ts";
import { openQemuHypervisor } from "#drivers/qemu/qemu-hypervisor.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import { runInGuest } from "../../lab/guest.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm } from "./driven-vm.ts";
import { AcknowledgedWriter, assertShortGap, letPass, startGapMeter } from "./guest-writers.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const freeze: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };

async function rejectsWith(work: Promise<unknown>, code: ErrorCode): Promise<KluisError> {
  let thrown: unknown;
  await assert.rejects(work, (error) => {
    thrown = error;
    return true;
  });
  assert.ok(isKluisError(thrown, code), `${code} is expected, not ${String(thrown)}`);
  return thrown;
}

/** Changes bytes of an image as a program would that knows nothing of layers. */
function writeInto(path: string, format: string): void {
  execFileSync("qemu-io", ["-f", format, "-c", "write -P 0x5a 1M 64k", path]);
}

test("layers: a base that was written behind its overlay is refused everywhere", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  const first = await hypervisor.takeSnapshot(vmId, crash);
  const second = await hypervisor.takeSnapshot(vmId, crash);
  writeInto(vm.lab.diskPath("vdb"), "qcow2");
  const disk = second.disks.find((each) => each.name === "vdb");
  assert.ok(disk !== undefined);
  const error = await rejectsWith(hypervisor.start(vmId), "SnapshotBaseChanged");
  assert.match(error.message, /vdb\.qcow2/);
  await rejectsWith(hypervisor.takeSnapshot(vmId, crash), "SnapshotBaseChanged");
  await rejectsWith(disk.open(), "SnapshotBaseChanged");
  await rejectsWith(disk.changesSince(first.id), "SnapshotBaseChanged");
  await rejectsWith(releaseBefore(hypervisor, vmId, second.id), "SnapshotBaseChanged");
  await rejectsWith(hypervisor.detach(vmId), "SnapshotBaseChanged");
  assert.equal((await hypervisor.get(vmId)).state, "stopped");
});

test("layers: a start of the original by other means is noticed", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  await hypervisor.takeSnapshot(vmId, crash);
  await runInGuest(vm.exec, "echo newest >/data/vdb/state; sync");
  await vm.cutPower();
  {
    // The description as it is, without the record: what an administrator's own script would start.
    const foreign = await openQemuHypervisor({
      ...vm.options,
      stateDirectory: join(vm.lab.directory, "other-state"),
    });
    await rejectsWith(foreign.start(vmId), "SnapshotBaseChanged");
    await using machine = await vm.lab.start();
    await runInGuest(machine.exec, "echo stale >/data/vdb/state; sync");
  }
  await rejectsWith(hypervisor.start(vmId), "SnapshotBaseChanged");
});

test("layers: a base that was moved, copied or given other rights is the same", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.takeSnapshot(vmId, crash);
  const path = vm.lab.diskPath("vdb");
  await chmod(path, 0o400);
  await hypervisor.takeSnapshot(vmId, crash);
  const { atime, mtime } = await stat(path);
  await copyFile(path, `${path}.copy`);
  await utimes(`${path}.copy`, atime, mtime);
  execFileSync("touch", ["-r", path, `${path}.copy`]);
  await rename(`${path}.copy`, path);
  await hypervisor.takeSnapshot(vmId, crash);
  await utimes(path, atime, new Date(mtime.getTime() + 1000));
  await rejectsWith(hypervisor.takeSnapshot(vmId, crash), "SnapshotBaseChanged");
});

test("layers: an image that another program runs on is refused", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await using machine = await vm.lab.start();
  await rejectsWith(hypervisor.start(vmId), "ImageInUse");
  // The second start boots, and meets the lock earlier.
  const error = await rejectsWith(hypervisor.start(vmId), "ImageInUse");
  assert.match(error.message, /vd[abc]\.qcow2/);
  await rejectsWith(hypervisor.takeSnapshot(vmId, crash), "ImageInUse");
  await runInGuest(machine.exec, "echo goes on >/data/vdb/x; sync");
});

test("layers: an image that was replaced below its layers is refused", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.takeSnapshot(vmId, crash);
  const path = vm.lab.diskPath("vdc");
  await rm(path);
  await rejectsWith(hypervisor.start(vmId), "ImageNotFound");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "512M"]);
  await rejectsWith(hypervisor.start(vmId), "SnapshotBaseChanged");
});

test("layers: a description that leaves a disk with layers is refused, and says what to do", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.takeSnapshot(vmId, crash);
  const { description, descriptionPath } = vm.lab;
  const disks = description.disks.slice(0, 2);
  const text = await readFile(descriptionPath, "utf8");
  await writeFile(descriptionPath, JSON.stringify({ ...description, disks }));
  const error = await rejectsWith(hypervisor.start(vmId), "ConfigInvalid");
  assert.match(error.message, /"vdc".*kluis vm detach/);
  await writeFile(descriptionPath, text);
  await hypervisor.detach(vmId);
  await writeFile(descriptionPath, JSON.stringify({ ...description, disks }));
  const snapshot = await hypervisor.takeSnapshot(vmId, crash);
  assert.deepEqual(
    snapshot.disks.map((disk) => disk.name),
    ["vda", "vdb"],
  );
});

test("layers: a transaction that fails leaves the VM as it was", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const base = await hypervisor.takeSnapshot(vmId, crash);
  const before = await vm.layerFiles();
  // The layer of the last disk is taken away, so that QEMU refuses after it has done the others.
  const failing = await vm.reopen(async (step) => {
    if (step !== "frozen") return;
    await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
    await qmp.execute("blockdev-del", { "node-name": "disk-vdc-2" });
  });
  await rejectsWith(failing.takeSnapshot(vmId, freeze), "SnapshotFailed");
  assert.deepEqual(await vm.layerFiles(), before);
  await runInGuest(vm.exec, "echo goes on >/data/vdb/x; sync");
  const listed = await hypervisor.listSnapshots(vmId);
  assert.deepEqual(
    listed.map((snapshot) => snapshot.id),
    [base.id],
  );
  const next = await hypervisor.takeSnapshot(vmId, freeze);
  assert.equal(next.consistency.consistency, "file-system", next.consistency.reason);
  await vm.cutPower();
  await hypervisor.start(vmId);
  assert.equal(await runInGuest(vm.exec, "cat /data/vdb/x"), "goes on\n");
});

test("layers: a layer that cannot be made fails the snapshot and leaves nothing", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  // The name of the second disk's layer is taken by a folder, which no file can replace.
  const blocked = `${vm.lab.diskPath("vdb")}.kluis-1.qcow2`;
  execFileSync("mkdir", [blocked]);
  const before = await vm.layerFiles();
  await rejectsWith(hypervisor.takeSnapshot(vmId, freeze), "ImageInvalid");
  assert.deepEqual(await vm.layerFiles(), before);
  execFileSync("rmdir", [blocked]);
  await runInGuest(vm.exec, "echo goes on >/data/vdb/x; sync");
  await hypervisor.takeSnapshot(vmId, freeze);
});

test("layers: a snapshot that is due stops a merge, and the next release ends it", async () => {
  for (const state of ["running", "stopped"] as const) {
    await using vm = await createDrivenVm();
    const { hypervisor, vmId } = vm;
    if (state === "running") await hypervisor.start(vmId);
    await hypervisor.takeSnapshot(vmId, crash);
    const keep = await hypervisor.takeSnapshot(vmId, crash);
    const held = Promise.withResolvers<void>();
    const marked = Promise.withResolvers<void>();
    const merging = await vm.reopen(async (step) => {
      if (step !== "merge-marked") return;
      marked.resolve();
      await held.promise;
    });
    const release = rejectsWith(releaseBefore(merging, vmId, keep.id), "Busy");
    await marked.promise;
    const due = hypervisor.takeSnapshot(vmId, crash);
    // It has asked the merge to stop once its request lies there.
    const request = join(vm.stateDirectory, "vms", vmId, "stop-merge");
    while (
      !(await stat(request).then(
        () => true,
        () => false,
      ))
    )
      await letPass(5);
    held.resolve();
    const outcome = await Promise.allSettled([release, due]);
    assert.equal(outcome[1].status, "fulfilled", JSON.stringify(outcome[1]));
    const snapshots = await hypervisor.listSnapshots(vmId);
    assert.equal(snapshots.length, 2);
    const newest = snapshots.at(-1);
    await releaseBefore(hypervisor, vmId, newest?.id ?? "");
    assert.equal((await vm.layerFiles()).length, 3, "one active layer for each disk");
  }
});

test("layers: a reader that leaves no mark is protected by QEMU's locks", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const first = await hypervisor.takeSnapshot(vmId, crash);
  const keep = await hypervisor.takeSnapshot(vmId, crash);
  const socket = join(vm.lab.directory, "foreign.sock");
  const pidFile = join(vm.lab.directory, "foreign.pid");
  const layer = `${vm.lab.diskPath("vda")}.kluis-1.qcow2`;
  const options = ["--fork", "-r", "-t", "-k", socket, `--pid-file=${pidFile}`, "-f", "qcow2"];
  execFileSync("qemu-nbd", [...options, layer]);
  const pid = Number(await readFile(pidFile, "utf8"));
  await rejectsWith(releaseBefore(hypervisor, vmId, keep.id), "SnapshotInUse");
  process.kill(pid);
  while (
    await stat(`/proc/${String(pid)}/fd/0`).then(
      () => true,
      () => false,
    )
  )
    await letPass(10);
  await releaseBefore(hypervisor, vmId, keep.id);
  assert.equal((await vm.layerFiles()).length, 3);
  assert.ok(!(await hypervisor.listSnapshots(vmId)).some((each) => each.id === first.id));
});

test("layers: a disk that grew is told with its new part", async () => {
  await using vm = await createDrivenVm({ dataDisksMiB: [4, 4] });
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const base = await hypervisor.takeSnapshot(vmId, crash);
  const newSize = 6 * 1024 * 1024;
  {
    await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
    await qmp.execute("block_resize", { "node-name": "disk-vdc-1", size: newSize });
  }
  await runInGuest(vm.exec, "dd if=/etc/passwd of=/dev/vdc bs=1M seek=5 conv=notrunc,fsync");
  const snapshot = await hypervisor.takeSnapshot(vmId, crash);
  const disk = snapshot.disks.find((each) => each.name === "vdc");
  assert.equal(disk?.sizeBytes, newSize);
  const answer = await disk.changesSince(base.id);
  assert.ok(answer.known);
  const grown = answer.extents.filter((extent) => extent.offsetBytes >= 4 * 1024 * 1024);
  const kinds = grown.map((extent) => `${extent.kind} ${String(extent.lengthBytes / 4096)}`);
  assert.deepEqual(kinds, ["zero 256", "data 1", "zero 255"]);
  {
    await using reader = await disk.open();
    assert.equal(reader.sizeBytes, newSize);
  }
  await hypervisor.detach(vmId);
  const vms = await hypervisor.get(vmId);
  assert.equal(vms.disks.find((each) => each.name === "vdc")?.sizeBytes, newSize);
});

test("layers: a record that is older than the layers is refused, and nothing is removed", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  await hypervisor.takeSnapshot(vmId, crash);
  const recordPath = join(vm.stateDirectory, "vms", vmId, "record.json");
  const older = await readFile(recordPath);
  await hypervisor.takeSnapshot(vmId, crash);
  await runInGuest(vm.exec, "echo newest >/data/vdb/state; sync");
  await vm.cutPower();
  const newer = await readFile(recordPath);
  const layers = await vm.layerFiles();
  await writeFile(recordPath, older);
  await rejectsWith(hypervisor.start(vmId), "SnapshotBaseChanged");
  assert.deepEqual(await vm.layerFiles(), layers);
  await writeFile(recordPath, newer);
  await hypervisor.start(vmId);
  assert.equal(await runInGuest(vm.exec, "cat /data/vdb/state"), "newest\n");
});

test("layers: a machine that stands still goes on when it is started again", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  {
    await using qmp = await QmpClient.open(vm.paths.qmpSocket);
    await qmp.execute("stop");
  }
  assert.equal((await hypervisor.get(vmId)).state, "running");
  await hypervisor.start(vmId);
  assert.equal(await runInGuest(vm.exec, "echo goes on"), "goes on\n");
});

test("layers: an added node of the same name does not confuse a snapshot", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  {
    // What a run leaves that died between blockdev-add and the record.
    await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
    const path = `${vm.lab.diskPath("vdb")}.kluis-1.qcow2`;
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, "512M"]);
    await addLayerNodes(qmp, "vdb", { number: 1, path, format: "qcow2" });
  }
  const snapshot = await hypervisor.takeSnapshot(vmId, freeze);
  assert.equal(snapshot.consistency.consistency, "file-system", snapshot.consistency.reason);
});

for (const step of ["detach-pending", "detach-recorded"] as const) {
  test(`layers: a Kluis that stops at ${step} does not hold the guest's writes`, async (t) => {
    await using vm = await createDrivenVm();
    const { hypervisor, vmId, options } = vm;
    await hypervisor.start(vmId);
    await startGapMeter(vm);
    await hypervisor.takeSnapshot(vmId, crash);
    using writer = await AcknowledgedWriter.start(vm, 7);
    await using child = ChildRun.start({
      options,
      vmId,
      operation: { kind: "detach" },
      waitAt: step,
    });
    await child.waitForStep(step);
    child.signalGroup("SIGSTOP");
    await writer.waitForMore();
    await assert.rejects(child.outcome(), /the child ended/, "the guard has killed it");
    await assertShortGap(vm, t, "the guard");
    await vm.cutPower();
    await hypervisor.start(vmId);
    await writer.assertNothingLost();
    await hypervisor.detach(vmId);
    await writer.assertNothingLost();
    assert.deepEqual(await vm.layerFiles(), []);
  });

  test(`layers: the next operation ends a change-over that everybody left at ${step}`, async () => {
    await using vm = await createDrivenVm();
    const { hypervisor, vmId, options } = vm;
    await hypervisor.start(vmId);
    await hypervisor.takeSnapshot(vmId, crash);
    using writer = await AcknowledgedWriter.start(vm, 8);
    await using child = ChildRun.start({
      options,
      vmId,
      operation: { kind: "detach" },
      waitAt: step,
    });
    await child.waitForStep(step);
    const guard = JSON.parse(await readFile(join(vm.runDirectory, "guard.json"), "utf8")) as {
      readonly pid: number;
    };
    process.kill(guard.pid, "SIGKILL");
    await child.kill();
    await hypervisor.detach(vmId);
    await writer.waitForMore();
    assert.deepEqual(await vm.layerFiles(), []);
    await vm.cutPower();
    await hypervisor.start(vmId);
    await writer.assertNothingLost();
  });
}
