/**
 * Goal: whatever dies at whatever step of an operation, the VM starts on its newest layers, no
 * acknowledged write is lost, and the next operation works. Method: the operation runs in a process
 * of its own that waits at a step, where it is killed with its process group, alone or with QEMU,
 * while a guest process writes numbered records and the host hears which are durable.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test, type TestContext } from "node:test";

import { parseVmRecord } from "#drivers/layers/vm-record.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import { sliceOf } from "#testing/slice.ts";
import { ChildRun, type ChildPlan } from "./child-run.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { AcknowledgedWriter, assertShortGap, startGapMeter } from "./guest-writers.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const freeze: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };
const rounds = process.env["KLUIS_LONG"] === "1" ? 10 : 1;
/** Steps of each operation in a slice. */
const stepsInSlice = 2;

type Operation = "crash snapshot" | "frozen snapshot" | "release" | "detach";

const steps: Readonly<Record<Operation, readonly VmStep[]>> = {
  "crash snapshot": ["created", "attached", "switched", "taken", "recorded"],
  "frozen snapshot": ["frozen", "taken", "thawed"],
  release: ["merge-marked", "merge-committed", "merge-recorded"],
  detach: ["detach-marked", "detach-pending", "detach-recorded", "detach-finished"],
};

/** Makes what the operation needs, and says how the child is to run it. */
async function planOperation(
  vm: DrivenVm,
  operation: Operation,
  waitAt: VmStep,
): Promise<ChildPlan> {
  const { options, vmId, hypervisor } = vm;
  const plan = { options, vmId, waitAt };
  if (operation === "crash snapshot" || operation === "frozen snapshot") {
    const request = operation === "crash snapshot" ? crash : freeze;
    return { ...plan, operation: { kind: "snapshot", request } };
  }
  await hypervisor.takeSnapshot(vmId, crash);
  const { id: keepId } = await hypervisor.takeSnapshot(vmId, crash);
  // A frozen layer lies above what is merged, and gets a new header.
  await hypervisor.takeSnapshot(vmId, crash);
  if (operation === "detach") return { ...plan, operation: { kind: "detach" } };
  return { ...plan, operation: { kind: "release", keepId } };
}

/** The record and the files beside the images name the same layers. */
async function assertNoStrayLayers(vm: DrivenVm): Promise<void> {
  const path = join(vm.stateDirectory, "vms", vm.vmId, "record.json");
  const record = parseVmRecord(await readFile(path), path);
  const recorded = record.disks
    .flatMap((disk) => disk.layers.slice(1).map((layer) => basename(layer.path)))
    .sort();
  assert.deepEqual(await vm.layerFiles(), recorded);
}

/** The next operations work, and nothing is left behind. */
async function assertUsable(vm: DrivenVm): Promise<void> {
  const snapshot = await vm.hypervisor.takeSnapshot(vm.vmId, freeze);
  assert.equal(snapshot.consistency.consistency, "file-system", snapshot.consistency.reason);
  await releaseBefore(vm.hypervisor, vm.vmId, snapshot.id);
  const left = await vm.hypervisor.listSnapshots(vm.vmId);
  assert.deepEqual(
    left.map((each) => each.id),
    [snapshot.id],
  );
  await assertNoStrayLayers(vm);
}

/** Whether the guest's writes wait at a step, so that none can be acknowledged there. */
function isHeld(operation: Operation, step: VmStep): boolean {
  if (operation === "frozen snapshot") return step === "frozen" || step === "taken";
  return operation === "detach" && (step === "detach-pending" || step === "detach-recorded");
}

for (const operation of ["crash snapshot", "frozen snapshot", "release", "detach"] as const) {
  test(`crash: Kluis is killed at each step of a ${operation}, QEMU lives`, async (t: TestContext) => {
    await using vm = await createDrivenVm();
    await vm.hypervisor.start(vm.vmId);
    await startGapMeter(vm);
    let seed = 1;
    for (let round = 0; round < rounds; round += 1) {
      for (const step of sliceOf(steps[operation], stepsInSlice)) {
        using writer = await AcknowledgedWriter.start(vm, (seed += 1));
        await using child = ChildRun.start(await planOperation(vm, operation, step));
        await child.waitForStep(step);
        if (!isHeld(operation, step)) await writer.waitForMore();
        await child.kill();
        await writer.waitForMore();
        await assertUsable(vm);
        await writer.waitForMore();
        await writer.stop();
        await writer.assertNothingLost();
        await assertShortGap(vm, t, step);
      }
    }
  });

  test(`crash: Kluis and QEMU are killed at each step of a ${operation}`, async () => {
    await using vm = await createDrivenVm();
    await vm.hypervisor.start(vm.vmId);
    let seed = 1;
    for (let round = 0; round < rounds; round += 1) {
      for (const step of sliceOf(steps[operation], stepsInSlice)) {
        using writer = await AcknowledgedWriter.start(vm, (seed += 1));
        await using child = ChildRun.start(await planOperation(vm, operation, step));
        await child.waitForStep(step);
        // What is acknowledged now is lost if a start found older layers.
        if (!isHeld(operation, step)) await writer.waitForMore();
        await Promise.all([child.kill(), vm.cutPower()]);
        await vm.hypervisor.start(vm.vmId);
        await writer.assertNothingLost();
        await assertUsable(vm);
        await writer.assertNothingLost();
      }
    }
  });
}
