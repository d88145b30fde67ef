/**
 * Goal: whoever dies while an instant is kept aside, the guest goes on writing, no acknowledged write
 * is lost, nothing of it stays in QEMU after the next run, and every change since the last base stays
 * named. Method: the work runs in a process of its own that is killed with its group at each step, alone
 * or with QEMU, while a guest process writes numbered records and the host hears which are durable; the
 * next run's instant and changes are compared with copies that another program makes of the disks while
 * the machine stands still.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test, type TestContext } from "node:test";

import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { FleeceRequest } from "#ports/hypervisor.ts";
import { diskOf, readWhole } from "#testing/suites/hypervisor-fixture.ts";
import { assertNamed, pagesThatDiffer } from "#testing/suites/fleecing-suite.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { listFleeceLeftovers, openFleeceWitness, type FleeceWitness } from "./fleece-witness.ts";
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

/** Those that the guest writes on; the first one holds the records. */
const diskNames = ["vdb", "vdc"] as const;
/** Small, since they are compared byte by byte. */
const dataDisksMiB = [64, 64];

/** An instant that is a base now, and what the disks were at it. */
interface Base {
  readonly id: string;
  readonly copies: readonly Uint8Array[];
}

/**
 * A run that goes to its end: the instant equals the copies, and what changed since the base is named,
 * or, with `isGone`, said to be unknown. Returns the next base.
 */
async function runWhole(
  { vmId }: DrivenVm,
  witness: FleeceWitness,
  base?: Base & { readonly isGone?: boolean },
): Promise<Base> {
  await using fleece = await witness.hypervisor.takeFleecedSnapshot(vmId, request);
  assert.equal(fleece.consistency.consistency, "file-system", fleece.consistency.reason);
  const copies = await Promise.all(diskNames.map((disk) => readFile(witness.pathOf(disk))));
  for (const [at, name] of diskNames.entries()) {
    const disk = diskOf(fleece, name);
    await using reader = await disk.open();
    const now = copies[at] as Uint8Array;
    assert.deepEqual(pagesThatDiffer(await readWhole(reader), now), [], `${name} at the instant`);
    if (base === undefined) continue;
    if (base.isGone === true) {
      const answer = await disk.changesSince(base.id);
      assert.ok(!answer.known && /stopped/.test(answer.reason), "the bitmap went with its QEMU");
      continue;
    }
    await assertNamed(fleece, { disk: name, base, at, expected: copies });
    const changed = pagesThatDiffer(now, base.copies[at] as Uint8Array);
    assert.ok(name !== diskNames[0] || changed.length > 0, "the guest wrote since the base");
  }
  await fleece.markBase("vault");
  return { id: fleece.id, copies };
}

async function assertOnlyBitmaps(vm: DrivenVm): Promise<void> {
  const left = await listFleeceLeftovers(vm);
  assert.deepEqual(
    left.filter((each) => !each.startsWith("bitmap ")),
    [],
  );
}

test("fleecing crash: Kluis is killed at each step, QEMU lives", async (t: TestContext) => {
  await using vm = await createDrivenVm({ dataDisksMiB, rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  await startGapMeter(vm);
  const witness = await openFleeceWitness(vm, diskNames);
  let base = await runWhole(vm, witness);
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
      base = await runWhole(vm, witness, base);
      await assertOnlyBitmaps(vm);
      await writer.waitForMore();
      await writer.stop();
      await writer.assertNothingLost();
      await assertShortGap(vm, t, step);
    }
  }
});

test("fleecing crash: Kluis and QEMU are killed, the VM starts on what was acknowledged", async () => {
  await using vm = await createDrivenVm({ dataDisksMiB, rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  const witness = await openFleeceWitness(vm, diskNames);
  let base = await runWhole(vm, witness);
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
      base = await runWhole(vm, witness, { ...base, isGone: true });
      await assertOnlyBitmaps(vm);
    }
  }
});
