/**
 * Goal: a guest that stands still while a disk changes over to its original goes on within 10 s
 * though libvirtd dies or is stopped, alone or with Kluis, and no acknowledged write is lost. Method:
 * that happens at a step of the change-over; the guest's
 * acknowledged writer is heard on a socket of its own; libvirtd comes back, the next operation of
 * Kluis recovers, the power is cut, and the VM that is started again has every record. Where QEMU's
 * monitor cannot be reached the guest is not suspended at all.
 */
import assert from "node:assert/strict";
import { readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { after, test, type TestContext } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import { readGuestFile } from "#drivers/guest/guest-commands.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
  type LibvirtHypervisorOptions,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import { signalProcess } from "#drivers/process/process-identity.ts";
import {
  Acknowledgements,
  checkAcknowledgedRecords,
  startAcknowledgedWriter,
} from "../../lab/acknowledged-writer.ts";
import { sliceOf } from "#testing/slice.ts";
import type { LibvirtLab } from "../../lab/libvirt-host.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { ChildRun } from "./child-run.ts";

const recordsPath = "/root/records";
const seed = 9;
const ackTimeoutMs = 60_000;
/** What no guest may stand still longer than. */
const frozenMsMax = 10_000;

/** A guest that has written nothing for so long stands still. */
const quietMs = 700;

const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());

function optionsOf(vm: LibvirtVm): LibvirtHypervisorOptions {
  return {
    uri: vm.host.uri,
    stateDirectory: join(vm.directory, "state"),
    configDirectory: vm.host.configDirectory,
  };
}

/** A VM with a snapshot, whose guest writes records. */
class WritingVm implements AsyncDisposable {
  readonly vm: LibvirtVm;
  readonly options: LibvirtHypervisorOptions;
  readonly hypervisor: LibvirtHypervisor;
  readonly acks: Acknowledgements;

  private constructor(vm: LibvirtVm, run: Pick<WritingVm, "options" | "hypervisor" | "acks">) {
    this.vm = vm;
    this.options = run.options;
    this.hypervisor = run.hypervisor;
    this.acks = run.acks;
  }

  static async start(): Promise<WritingVm> {
    const vm = await vms.create();
    const options = optionsOf(vm);
    const hypervisor = await openLibvirtHypervisor(options);
    await hypervisor.start(vm.uuid);
    await hypervisor.takeSnapshot(vm.uuid, { consistency: "crash", freezeBudgetMs: 1_000 });
    const acks = await Acknowledgements.open(vm.ackSocket, seed);
    await startAcknowledgedWriter(vm.exec, recordsPath, seed);
    await acks.waitFor(3, ackTimeoutMs);
    return new WritingVm(vm, { options, hypervisor, acks });
  }

  /** A Kluis that detaches and waits at the step; the guest stands still there. */
  async detachUpTo(step: VmStep): Promise<ChildRun> {
    const { vm, options } = this;
    const operation = { kind: "detach" } as const;
    const child = ChildRun.start({ options, vmId: vm.uuid, operation, waitAt: step });
    await child.waitForStep(step);
    await this.assertStandsStill();
    return child;
  }

  async assertStandsStill(): Promise<void> {
    // What was acknowledged before may be on its way still.
    await systemClock.sleep(quietMs);
    const { lastNumber } = this.acks;
    await systemClock.sleep(quietMs);
    assert.equal(this.acks.lastNumber, lastNumber, "the guest stands still");
  }

  /** Does harm, and tells how long after it the guest wrote again. */
  async measureFrozen(t: TestContext, harm: () => Promise<unknown>): Promise<void> {
    const { lastNumber } = this.acks;
    const startMs = systemClock.monotonicMs();
    await harm();
    await this.acks.waitFor(lastNumber + 1, ackTimeoutMs);
    const frozenMs = systemClock.monotonicMs() - startMs;
    t.diagnostic(`the guest wrote again after ${frozenMs.toFixed(0)} ms`);
    assert.ok(frozenMs <= frozenMsMax, `the guest stood still for ${String(frozenMs)} ms`);
  }

  /** libvirtd comes back; a detach, a power cut and a start later every record is there. */
  async assertNothingLost(): Promise<void> {
    const { vm, hypervisor, acks } = this;
    await vm.host.restart();
    await hypervisor.detach(vm.uuid);
    await acks.waitFor(acks.lastNumber + 1, ackTimeoutMs);
    const layers = (await readdir(vm.directory)).filter((name) => name.includes(".kluis-"));
    assert.deepEqual(layers, [], "every disk is one file again");
    await vm.cutPower();
    await hypervisor.start(vm.uuid);
    const socketPath = join(vm.directory, "agent.sock");
    const address = planVirshAgent({ uri: vm.host.uri, domain: vm.uuid, socketPath });
    await using agent = await GuestAgent.open(address, { timeoutMs: ackTimeoutMs });
    const content = await readGuestFile(agent, recordsPath);
    checkAcknowledgedRecords(content, { seed, lastNumber: acks.lastNumber });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.acks[Symbol.dispose]();
    await this.vm[Symbol.asyncDispose]();
  }
}

/** Takes the name of QEMU's monitor away and gives it back. */
async function withoutMonitor(host: LibvirtLab, work: () => Promise<void>): Promise<void> {
  const folder = join(host.root, "lib", "qemu");
  const domain = (await readdir(folder)).find((name) => name.startsWith("domain-")) ?? "none";
  const path = join(folder, domain, "monitor.sock");
  await rename(path, `${path}.away`);
  try {
    await work();
  } finally {
    await rename(`${path}.away`, path);
  }
}

function isRefusal(error: unknown): boolean {
  return isKluisError(error, "VmStateWrong") && /stop the VM first/.test(error.message);
}

for (const step of sliceOf(["detach-pending", "detach-recorded"] as const, 1)) {
  test(`pause: Kluis and libvirtd die at ${step}, the guest goes on and loses nothing`, async (t) => {
    await using run = await WritingVm.start();
    const { vm, hypervisor } = run;
    if (step === "detach-pending") {
      await withoutMonitor(vm.host, () => assert.rejects(hypervisor.detach(vm.uuid), isRefusal));
      await run.acks.waitFor(run.acks.lastNumber + 1, ackTimeoutMs);
      await using survivor = await run.detachUpTo(step);
      const harm = (): Promise<void> =>
        vm.host.kill().then(() => {
          survivor.goOn();
        });
      await run.measureFrozen(t, harm);
      assert.equal((await survivor.outcome()).kind, "failed");
      await vm.host.restart();
    }
    await using child = await run.detachUpTo(step);
    await run.measureFrozen(t, () => Promise.all([child.kill(), vm.host.kill()]));
    await run.assertNothingLost();
  });
}

test("pause: a libvirtd that was stopped goes on, and the guest with it", async (t) => {
  await using run = await WritingVm.start();
  const { host } = run.vm;
  await using child = await run.detachUpTo("detach-recorded");
  await run.measureFrozen(t, async () => {
    await signalProcess(host.daemon.identity, "SIGSTOP");
    await child.kill();
  });
  await host.kill();
  await run.assertNothingLost();
});
