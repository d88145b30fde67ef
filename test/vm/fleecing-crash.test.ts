/**
 * Goal: whoever dies while an instant is kept aside, the guest goes on writing, no acknowledged write
 * is lost, nothing of it stays in QEMU after the next run, and what changed stays known. Method: the
 * work runs in a process of its own that is killed with its group at each step, alone or with QEMU,
 * while a guest process writes numbered records and the host hears which are durable.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { FleeceRequest } from "#ports/hypervisor.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { listFleeceLeftovers } from "./fleece-witness.ts";
import { AcknowledgedWriter, assertShortGap, startGapMeter } from "./guest-writers.ts";

const request: FleeceRequest = {
  consistency: "file-system",
  freezeBudgetMs: 10_000,
  reserveBytes: 0,
};
const isLong = process.env["KLUIS_LONG"] === "1";
const rounds = isLong ? 10 : 1;

const allSteps: readonly VmStep[] = [
  "fleece-recorded",
  "fleece-attached",
  "frozen",
  "fleece-taken",
  "thawed",
  "fleece-exported",
  "fleece-closed",
];
/** Where most can go wrong; all of them in the long run. */
const steps: readonly VmStep[] = isLong ? allSteps : ["fleece-taken"];
const stepsWithQemu: readonly VmStep[] = isLong ? allSteps : ["fleece-exported"];

function startFleece(vm: DrivenVm, waitAt: VmStep): ChildRun {
  const { options, vmId } = vm;
  const operation = { kind: "fleece", request, disk: "vdb" } as const;
  return ChildRun.start({ options, vmId, operation, waitAt });
}

/** A run that goes to its end; returns the id of its instant, which is the next base. */
async function runWhole(vm: DrivenVm, baseId: string | undefined): Promise<string> {
  await using fleece = await vm.hypervisor.takeFleecedSnapshot(vm.vmId, request);
  assert.equal(fleece.consistency.consistency, "file-system", fleece.consistency.reason);
  for (const disk of fleece.disks) {
    await using reader = await disk.open();
    await reader.read(0, Buffer.alloc(1024 * 1024));
    if (baseId === undefined) continue;
    const answer = await disk.changesSince(baseId);
    assert.ok(answer.known, answer.known ? "" : answer.reason);
  }
  await fleece.markBase("vault");
  return fleece.id;
}

async function assertOnlyBitmaps(vm: DrivenVm): Promise<void> {
  const left = await listFleeceLeftovers(vm);
  assert.deepEqual(
    left.filter((each) => !each.startsWith("bitmap ")),
    [],
  );
}

test("fleecing crash: Kluis is killed at each step, QEMU lives", async (t: TestContext) => {
  await using vm = await createDrivenVm({ rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  await startGapMeter(vm);
  let baseId = await runWhole(vm, undefined);
  let seed = 1;
  for (let round = 0; round < rounds; round += 1) {
    for (const step of steps) {
      using writer = await AcknowledgedWriter.start(vm, (seed += 1));
      await using child = startFleece(vm, step);
      await child.waitForStep(step);
      const isHeld = step === "frozen" || step === "fleece-taken";
      if (!isHeld) await writer.waitForMore();
      await child.kill();
      await writer.waitForMore();
      baseId = await runWhole(vm, baseId);
      await assertOnlyBitmaps(vm);
      await writer.waitForMore();
      await writer.stop();
      await writer.assertNothingLost();
      await assertShortGap(vm, t, step);
    }
  }
});

test("fleecing crash: Kluis and QEMU are killed, the VM starts on what was acknowledged", async () => {
  await using vm = await createDrivenVm({ rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  let seed = 1;
  for (let round = 0; round < rounds; round += 1) {
    for (const step of stepsWithQemu) {
      using writer = await AcknowledgedWriter.start(vm, (seed += 1));
      await using child = startFleece(vm, step);
      await child.waitForStep(step);
      if (step !== "frozen" && step !== "fleece-taken") await writer.waitForMore();
      await Promise.all([child.kill(), vm.cutPower()]);
      await vm.hypervisor.start(vm.vmId);
      assert.deepEqual(await listFleeceLeftovers(vm), []);
      await writer.assertNothingLost();
      await runWhole(vm, undefined);
      await assertOnlyBitmaps(vm);
    }
  }
});
