/**
 * Runs one operation of a VM driver in a process of its own, which a test can kill or stop at
 * any step. Tells each step on standard output; at the steps of its plan it stays for a time, or waits
 * for a line on standard input. Ends with the outcome as JSON.
 */
import { createInterface } from "node:readline";

import { systemClock } from "#base/clock.ts";
import { toKluisError } from "#base/kluis-error.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { openQemuHypervisor } from "#drivers/qemu/qemu-hypervisor.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import { releaseBefore } from "#testing/release-before.ts";
import type { ChildPlan, ChildMessage } from "./child-run.ts";

function tell(message: ChildMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function perform(hypervisor: Hypervisor, plan: ChildPlan): Promise<ChildMessage> {
  const { vmId, operation } = plan;
  if (operation.kind === "snapshot") {
    const { id, consistency } = await hypervisor.takeSnapshot(vmId, operation.request);
    return { kind: "done", snapshot: { id, consistency } };
  }
  if (operation.kind === "fleece") {
    await using fleece = await hypervisor.takeFleecedSnapshot(vmId, operation.request);
    const disk = fleece.disks.find(({ name }) => name === operation.disk);
    await using reader = await disk?.open();
    await reader?.read(0, Buffer.alloc(1024 * 1024));
    await fleece.markBase("child");
    return { kind: "done" };
  }
  if (operation.kind === "release") {
    await releaseBefore(hypervisor, vmId, operation.keepId);
  } else {
    await hypervisor.detach(vmId);
  }
  return { kind: "done" };
}

async function main(plan: ChildPlan): Promise<void> {
  const lines = createInterface(process.stdin)[Symbol.asyncIterator]();
  let waited = false;
  const onStep = async (step: VmStep): Promise<void> => {
    tell({ kind: "step", step, atMs: systemClock.nowMs() });
    if (step === "frozen" && plan.holdMs !== undefined) await systemClock.sleep(plan.holdMs);
    if (step !== plan.waitAt || waited) return;
    waited = true;
    await lines.next();
  };
  const { options } = plan;
  const hypervisor =
    "uri" in options
      ? await openLibvirtHypervisor({ ...options, onStep })
      : await openQemuHypervisor({ ...options, onStep });
  try {
    tell(await perform(hypervisor, plan));
  } catch (error) {
    const { code, message } = toKluisError(error);
    tell({ kind: "failed", code, message });
  }
  process.exit();
}

if (import.meta.main) await main(JSON.parse(process.argv[2] ?? "") as ChildPlan);
