/**
 * Runs one operation of the QEMU driver in a process of its own, which a test can kill or stop at
 * any step. Tells each step on standard output; at the step of its plan it waits for a line on
 * standard input. Ends with the outcome as JSON.
 */
import { createInterface } from "node:readline";

import { toKluisError } from "#base/kluis-error.ts";
import { openQemuHypervisor, type QemuHypervisor } from "#drivers/qemu/qemu-hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import type { ChildPlan, ChildMessage } from "./child-run.ts";

function tell(message: ChildMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

async function perform(hypervisor: QemuHypervisor, plan: ChildPlan): Promise<ChildMessage> {
  const { vmId, operation } = plan;
  if (operation.kind === "snapshot") {
    const { id, consistency } = await hypervisor.takeSnapshot(vmId, operation.request);
    return { kind: "done", snapshot: { id, consistency } };
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
  const hypervisor = await openQemuHypervisor({
    ...plan.options,
    onStep: async (step) => {
      tell({ kind: "step", step });
      if (step !== plan.waitAt || waited) return;
      waited = true;
      await lines.next();
    },
  });
  try {
    tell(await perform(hypervisor, plan));
  } catch (error) {
    const { code, message } = toKluisError(error);
    tell({ kind: "failed", code, message });
  }
  process.exit();
}

if (import.meta.main) await main(JSON.parse(process.argv[2] ?? "") as ChildPlan);
