/**
 * Goal: libvirtd may be killed at any moment of a snapshot, while it writes the XML too, and whoever
 * starts the VM afterwards finds every write that was acknowledged; the next snapshot works. Method:
 * libvirtd is killed at random moments after a step, and (each with KLUIS_LONG, else one) right before
 * the rename that ends each of its writes of XML, by strace; the guest writes a number, heard on a
 * channel of the tests' own; QEMU is killed, in half of the random rounds, and the VM started by hand.
 */
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { after, test, type TestContext } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const rounds = isLong ? 60 : 3;
/** A define and a snapshot take less. */
const delayMsMax = 200;
const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
/** What follows each: overlays exist; the XML is written; the instant is taken; the record is written. */
const steps: readonly VmStep[] = ["created", "attached", "frozen", "taken"];

/** More than libvirt writes in a snapshot. */
const writesMax = 40;
const attachTimeoutMs = 20_000;

const vms = await LibvirtVms.open([2, 2], { isSerial: true });
after(() => vms[Symbol.asyncDispose]());

function open(vm: LibvirtVm, onStep?: (step: VmStep) => Promise<void>): Promise<LibvirtHypervisor> {
  return openLibvirtHypervisor({
    uri: vm.host.uri,
    stateDirectory: join(vm.directory, "state"),
    configDirectory: vm.host.configDirectory,
    ...(onStep === undefined ? {} : { onStep }),
  });
}

/** Takes a snapshot under which libvirtd dies. */
async function snapshotUnderKill(
  vm: LibvirtVm,
  at: VmStep,
  delayMs: number,
): Promise<"taken" | "failed"> {
  let killed: Promise<void> | undefined;
  const hypervisor = await open(vm, (step) => {
    if (step === at) killed = systemClock.sleep(delayMs).then(() => vm.host.kill());
    return Promise.resolve();
  });
  let outcome: "taken" | "failed" = "taken";
  try {
    await hypervisor.takeSnapshot(vm.uuid, crash);
  } catch (error) {
    if (!isKluisError(error)) throw error;
    outcome = "failed";
  }
  await killed;
  return outcome;
}

async function writeNumber(vm: LibvirtVm, number: number): Promise<void> {
  await runInGuest(
    vm.exec,
    'for d in vda vdb; do f=/data/$d/number; [ $d = vda ] && f=/root/number; echo "$1" >$f; done; sync',
    [String(number)],
  );
}

async function readNumbers(vm: LibvirtVm): Promise<string> {
  return runInGuest(vm.exec, "cat /root/number /data/vdb/number");
}

test("crash: libvirtd is killed at random moments of a snapshot, nothing is lost", async (t: TestContext) => {
  await using vm = await vms.create();
  const prng = createPrng(testSeed());
  const hypervisor = await open(vm);
  await hypervisor.start(vm.uuid);
  for (let round = 1; round <= rounds; round += 1) {
    const at = steps[round % steps.length] ?? "created";
    const delayMs = prng.below(delayMsMax);
    const isPowerCut = round % 2 === 1;
    const outcome = await snapshotUnderKill(vm, at, delayMs);
    await writeNumber(vm, round);
    if (isPowerCut) await vm.cutPower();
    await vm.host.restart();
    if (isPowerCut) await vm.host.virsh.run(["start", vm.uuid]);
    assert.equal(await readNumbers(vm), `${String(round)}\n${String(round)}\n`);
    let next = "taken";
    try {
      await hypervisor.takeSnapshot(vm.uuid, crash);
    } catch (error) {
      // libvirt that lost track of a running QEMU refuses until the VM was started again.
      if (isPowerCut || !isKluisError(error, "SnapshotFailed")) throw error;
      next = error.message;
      await hypervisor.stop(vm.uuid, { shutdownTimeoutMs: 0 });
      await vm.host.virsh.run(["start", vm.uuid]);
      await hypervisor.takeSnapshot(vm.uuid, crash);
      assert.equal(await readNumbers(vm), `${String(round)}\n${String(round)}\n`);
    }
    t.diagnostic(`${at} + ${String(delayMs)} ms: ${outcome}; next: ${next}`);
    const snapshots = await hypervisor.listSnapshots(vm.uuid);
    const older = new Set(snapshots.slice(0, -1).map((snapshot) => snapshot.id));
    await hypervisor.releaseSnapshots(vm.uuid, older);
    assert.equal(await readNumbers(vm), `${String(round)}\n${String(round)}\n`);
  }
});

/** Has libvirtd die where its calling thread is about to rename a file for the `count`th time. */
async function dieAtRename(vm: LibvirtVm, count: number): Promise<Daemon> {
  const logPath = join(vm.directory, "strace.log");
  await rm(logPath, { force: true });
  const calls = "rename,renameat,renameat2";
  const { pid } = vm.host.daemon.identity;
  const die = `inject=${calls}:signal=KILL:when=${String(count)}`;
  return spawnDaemon("strace", ["-f", "-e", `trace=${calls}`, "-e", die, "-p", String(pid)], {
    logPath,
    isReady: async () => (await readFile(logPath, "utf8")).includes("attached"),
    readyTimeoutMs: attachTimeoutMs,
  });
}

/** Takes a snapshot in which libvirtd dies at one of its writes; `undefined` where it has fewer. */
async function snapshotUnderWrite(
  vm: LibvirtVm,
  count: number,
): Promise<"taken" | "failed" | undefined> {
  const { daemon } = vm.host;
  const killer = await dieAtRename(vm, count);
  let outcome: "taken" | "failed" = "taken";
  try {
    const hypervisor = await open(vm);
    await hypervisor.takeSnapshot(vm.uuid, crash);
  } catch (error) {
    if (!isKluisError(error)) throw error;
    outcome = "failed";
  } finally {
    await killer.stop();
  }
  if (daemon.exitStatus !== undefined) return outcome;
  assert.equal(outcome, "taken", "a libvirtd that lives takes the snapshot");
  return undefined;
}

test("crash: libvirtd is killed at each write of XML in a snapshot, nothing is lost", async (t) => {
  await using vm = await vms.create();
  const prng = createPrng(testSeed());
  const hypervisor = await open(vm);
  await hypervisor.start(vm.uuid);
  const only = isLong ? undefined : 1 + prng.below(4);
  let writes = 0;
  for (let count = only ?? 1; count <= (only ?? writesMax); count += 1) {
    const outcome = await snapshotUnderWrite(vm, count);
    if (outcome === undefined) break;
    writes += 1;
    await writeNumber(vm, count);
    await vm.cutPower();
    await vm.host.restart();
    await vm.host.virsh.run(["start", vm.uuid]);
    const numbers = `${String(count)}\n${String(count)}\n`;
    assert.equal(await readNumbers(vm), numbers);
    await hypervisor.takeSnapshot(vm.uuid, crash);
    t.diagnostic(`write ${String(count)} of XML: ${outcome}`);
    const snapshots = await hypervisor.listSnapshots(vm.uuid);
    const older = new Set(snapshots.slice(0, -1).map((snapshot) => snapshot.id));
    await hypervisor.releaseSnapshots(vm.uuid, older);
    assert.equal(await readNumbers(vm), numbers);
  }
  t.diagnostic(`libvirtd was killed at ${String(writes)} writes of XML`);
  assert.ok(writes >= (isLong ? 3 : 1), "libvirt writes XML in a snapshot");
  assert.ok(writes < writesMax, "every write had its turn");
});
