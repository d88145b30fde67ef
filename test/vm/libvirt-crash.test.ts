/**
 * Goal: libvirtd may be killed at any moment of a snapshot, while it writes the XML too, and whoever
 * starts the VM afterwards finds every write that was acknowledged; the next snapshot works. Method:
 * libvirtd is killed at random moments after a step, and (each with KLUIS_LONG, else one) right before
 * the rename that ends a write of XML: strace first lists those of one snapshot, of all threads, and then
 * each has its kill; the guest writes a number, heard on a
 * channel of the tests' own; QEMU is killed, in half of the random rounds, and the VM started by hand.
 */
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { basename, join } from "node:path";
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
import { takesAll } from "#testing/slice.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const rounds = isLong ? 60 : takesAll ? 3 : 2;
/** A define and a snapshot take less. */
const delayMsMax = 200;
const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
/** What follows each: overlays exist; the XML is written; the instant is taken; the record is written. */
const steps: readonly VmStep[] = ["created", "attached", "frozen", "taken"];

const renames = "rename,renameat,renameat2";
const attachTimeoutMs = 20_000;
const startTriesMax = 200;
const startPollMs = 50;

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
    if (isPowerCut) await startAgain(vm);
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
    await releaseOlder(vm, hypervisor);
    assert.equal(await readNumbers(vm), `${String(round)}\n${String(round)}\n`);
  }
});

/**
 * A write of XML: the `count`th rename before or after the step "frozen". A call of libvirt is done by
 * any of its threads, but each of these two parts of a snapshot by one.
 */
interface XmlWrite {
  readonly part: "before" | "after";
  readonly count: number;
  readonly file: string;
}

/** Follows renames of libvirtd until it is stopped. */
async function trace(
  vm: LibvirtVm,
  args: readonly string[],
): Promise<{ readonly tracer: Daemon; readonly logPath: string }> {
  const logPath = join(vm.directory, "strace.log");
  await rm(logPath, { force: true });
  const tracer = await spawnDaemon("strace", ["-e", `trace=${renames}`, ...args], {
    logPath,
    isReady: async () => (await readFile(logPath, "utf8")).includes("attached"),
    readyTimeoutMs: attachTimeoutMs,
  });
  return { tracer, logPath };
}

/** All writes of XML in one snapshot, in their order, by every thread. */
async function listWrites(vm: LibvirtVm): Promise<readonly XmlWrite[]> {
  const { pid } = vm.host.daemon.identity;
  const { tracer, logPath } = await trace(vm, ["-f", "-ttt", "-p", String(pid)]);
  let frozenMs = Infinity;
  const hypervisor = await open(vm, (step) => {
    if (step === "frozen") frozenMs = systemClock.nowMs();
    return Promise.resolve();
  });
  try {
    await hypervisor.takeSnapshot(vm.uuid, crash);
  } finally {
    await tracer.stop();
  }
  const writes: XmlWrite[] = [];
  const threads = { before: new Set<string>(), after: new Set<string>() };
  for (const line of (await readFile(logPath, "utf8")).split("\n")) {
    const match = /^\[pid\s+(\d+)\] ([\d.]+) rename\w*\(.*"([^"]+)"[^"]*$/u.exec(line);
    if (match === null) continue;
    const [, thread = "", seconds, path = ""] = match;
    const part = Number(seconds) * 1000 < frozenMs ? "before" : "after";
    threads[part].add(thread);
    const count = writes.filter((write) => write.part === part).length + 1;
    writes.push({ part, count, file: basename(path) });
  }
  const isOneEach = threads.before.size === 1 && threads.after.size === 1;
  assert.ok(isOneEach, `one thread writes in each part: ${JSON.stringify(writes)}`);
  return writes;
}

/** Takes a snapshot in which libvirtd dies at that write. */
async function snapshotUnderWrite(vm: LibvirtVm, write: XmlWrite): Promise<"taken" | "failed"> {
  const { daemon } = vm.host;
  const die = `inject=${renames}:signal=KILL:when=${String(write.count)}`;
  await using tracers = new AsyncDisposableStack();
  const begin = async (): Promise<void> => {
    const { tracer } = await trace(vm, ["-f", "-e", die, "-p", String(daemon.identity.pid)]);
    tracers.defer(async () => {
      await tracer.stop();
    });
  };
  if (write.part === "before") await begin();
  const hypervisor = await open(vm, async (step) => {
    if (step === "frozen" && write.part === "after") await begin();
  });
  let outcome: "taken" | "failed" = "taken";
  try {
    await hypervisor.takeSnapshot(vm.uuid, crash);
  } catch (error) {
    if (!isKluisError(error)) throw error;
    outcome = "failed";
  }
  await tracers.disposeAsync();
  assert.ok(daemon.exitStatus !== undefined, `libvirtd died at ${JSON.stringify(write)}`);
  return outcome;
}

/** Starts the VM of a libvirt that may not have noticed yet that its QEMU is gone. */
async function startAgain(vm: LibvirtVm): Promise<void> {
  for (let tries = 0; tries < startTriesMax; tries += 1) {
    if ((await vm.host.virsh.run(["domstate", vm.uuid])).trim() === "shut off") break;
    await systemClock.sleep(startPollMs);
  }
  await vm.host.virsh.run(["start", vm.uuid]);
}

async function releaseOlder(vm: LibvirtVm, hypervisor: LibvirtHypervisor): Promise<void> {
  const snapshots = await hypervisor.listSnapshots(vm.uuid);
  const older = new Set(snapshots.slice(0, -1).map((snapshot) => snapshot.id));
  await hypervisor.releaseSnapshots(vm.uuid, older);
}

test("crash: libvirtd is killed at each write of XML in a snapshot, nothing is lost", async (t) => {
  await using vm = await vms.create();
  const prng = createPrng(testSeed());
  const hypervisor = await open(vm);
  await hypervisor.start(vm.uuid);
  // As every one that follows: not the first snapshot of the VM.
  await hypervisor.takeSnapshot(vm.uuid, crash);
  const writes = await listWrites(vm);
  await releaseOlder(vm, hypervisor);
  assert.ok(writes.length >= 3, `libvirt writes XML in a snapshot: ${JSON.stringify(writes)}`);
  const chosen = isLong ? writes : writes.slice(prng.below(writes.length)).slice(0, 1);
  for (const [at, write] of chosen.entries()) {
    const outcome = await snapshotUnderWrite(vm, write);
    await writeNumber(vm, at);
    await vm.cutPower();
    await vm.host.restart();
    await startAgain(vm);
    const numbers = `${String(at)}\n${String(at)}\n`;
    assert.equal(await readNumbers(vm), numbers);
    await hypervisor.takeSnapshot(vm.uuid, crash);
    const { file, part, count } = write;
    t.diagnostic(`write of XML to "${file}", ${String(count)} ${part} "frozen": ${outcome}`);
    await releaseOlder(vm, hypervisor);
    assert.equal(await readNumbers(vm), numbers);
  }
  const all = `${String(chosen.length)} of ${String(writes.length)} writes of XML`;
  t.diagnostic(`libvirtd was killed at ${all}`);
});
