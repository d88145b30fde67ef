/**
 * Goal: the commands on a real VM, and what is left when one is stopped or killed in the middle: a
 * guest that goes on, a vault that is sound, and a next run that works. Method: the real command as
 * a process, signals at random moments.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import type {
  BackupOutput,
  ExpiryOutput,
  RestoreOutput,
  SnapshotOutput,
  TransferOutput,
  VerifyOutput,
  VmChangedOutput,
  VmExtensionOutput,
  VmPointsOutput,
  VmsOutput,
} from "#contract/cli-output.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { takesAll } from "#testing/slice.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import { runInGuest } from "../../lab/guest.ts";
import { createLabVm, type LabVm } from "../../lab/lab-vm.ts";
import { inGuest, pathsOf } from "../../scripts/demo/demo-vm.ts";
import { configureScripts, readTrace, scriptOf } from "./guest-scripts.ts";
import { assertFailure, collect, createWorld, type CliWorld } from "../e2e/cli.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const rounds = isLong ? 40 : takesAll ? 6 : 3;
/** A guest that was frozen is thawed within this, whoever dies. */
const thawLimitMs = 10_000;
const agentLimitMs = 120_000;

interface VmWorld extends AsyncDisposable {
  readonly world: CliWorld;
  readonly lab: LabVm;
  readonly vm: readonly string[];
  guest<T>(work: (exec: GuestExec) => Promise<T>): Promise<T>;
}

async function createVmWorld(): Promise<VmWorld> {
  await using owned = new AsyncDisposableStack();
  const lab = owned.use(await createLabVm({ name: "web" }));
  const world = owned.use(await createWorld());
  const state = join(lab.directory, "state");
  const kept = owned.move();
  return {
    world,
    lab,
    vm: ["--vm", lab.descriptionPath, "--state", state],
    guest: (work) => {
      const { agentSocket } = pathsOf(state, "web");
      return inGuest(agentSocket, AbortSignal.timeout(agentLimitMs), work);
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

test("cli vm: shows and removes the backup extension, and refuses what the guest's scripts forbid", async () => {
  await using vms = await createVmWorld();
  const { world, vm } = vms;
  assertFailure(await world.run(["vm", "extension", "status", ...vm]), "VmStateWrong", /not run/);
  await world.ok(["vm", "start", ...vm]);
  const installed = await world.json<VmExtensionOutput>(["vm", "extension", "install", ...vm]);
  assert.deepEqual([installed.isInstalled, installed.isCurrent], [true, true]);
  await vms.guest((exec) =>
    configureScripts(exec, {
      pre: scriptOf("pre", 3),
      post: scriptOf("post", 0),
      config: { continueBackupOnFailure: false },
    }),
  );
  const backup = ["vm", "backup", ...vm, ...world.vault];
  assertFailure(await world.run(backup), "GuestScriptFailed", /Pre-ScriptExecutionFailed/);
  const status = await world.json<VmExtensionOutput>(["vm", "extension", "status", ...vm]);
  assert.equal(status.lastStatus, "refused");
  assert.match(status.lastError ?? "", /exit code 3/);
  assert.equal(await vms.guest(readTrace), "pre post");
  const removed = await world.json<VmExtensionOutput>(["vm", "extension", "remove", ...vm]);
  assert.equal(removed.isInstalled, false);
});

test("cli vm: list, start, backup, restore, start the restored one, detach", async () => {
  await using vms = await createVmWorld();
  const { world, vm, lab } = vms;
  const listing = await world.json<VmsOutput>(["vm", "list", ...vm]);
  assert.deepEqual(
    listing.vms.map(({ id, state, disks }) => [id, state, disks.length]),
    [["web", "stopped", 3]],
  );
  const started = await world.json<VmChangedOutput>(["vm", "start", ...vm]);
  assert.equal(started.vm.state, "running");
  assertFailure(await world.run(["vm", "start", ...vm]), "VmStateWrong", /runs already/);
  assertFailure(
    await world.run(["vm", "backup", "nobody", ...vm, ...world.vault]),
    "VmNotFound",
    /"nobody"/,
  );
  await vms.guest((exec) => runInGuest(exec, "echo kept >/data/vdb/note; sync"));
  const first = await world.json<BackupOutput>(["vm", "backup", ...vm, ...world.vault]);
  assert.equal(first.point.consistency, "file-system");
  assert.ok((first.point.frozenMs ?? 0) > 0);
  await vms.guest((exec) => runInGuest(exec, "echo more >>/data/vdb/note; sync"));
  const second = await world.json<BackupOutput>(["vm", "backup", ...vm, ...world.vault]);
  assert.equal(second.point.basePointId, first.point.id);
  assert.ok(second.addedBytes < 1024 * 1024, `${second.addedBytes} bytes for a small change`);

  const folder = join(lab.directory, "restored");
  await mkdir(folder);
  const words = ["vm", "restore", "web", "--name", "web2", "--directory", folder, ...world.vault];
  const restored = await world.json<RestoreOutput>(words);
  assertFailure(await world.run(words), "TargetExists", /exists/);
  const state2 = join(lab.directory, "state2");
  const place = ["--vm", restored.configuration ?? "", "--state", state2];
  await world.ok(["vm", "start", ...place]);
  const { agentSocket } = pathsOf(state2, "web2");
  const note = await inGuest(agentSocket, AbortSignal.timeout(agentLimitMs), (exec) =>
    runInGuest(exec, "cat /data/vdb/note"),
  );
  assert.equal(note, "kept\nmore\n");

  const fleeced = ["vm", "backup", ...vm, ...world.vault, "--no-snapshot-tier"];
  assertFailure(await world.run(fleeced), "VmStateWrong", /detach/);
  assertFailure(await world.run([...fleeced, "--snapshot-only"]), "ArgumentInvalid", /neither/);
  await world.ok(["vm", "detach", ...vm]);
  for (const tracking of ["checksum", "dirty-bitmap"]) {
    const { point } = await world.json<BackupOutput>(fleeced);
    assert.equal(point.consistency, "file-system");
    assert.ok(
      point.disks.every((disk) => disk.tracking === tracking),
      tracking,
    );
  }
  const after = await world.json<VmsOutput>(["vm", "list", ...vm]);
  assert.deepEqual(
    after.vms.map(({ snapshots, state }) => [snapshots, state]),
    [[0, "running"]],
  );
  assert.equal(await vms.guest((exec) => runInGuest(exec, "cat /data/vdb/note")), "kept\nmore\n");
});

/** Whether a command has got as far as to hear signals; before that it has touched nothing. */
function listensForSignals(child: ChildProcess): boolean {
  if (child.exitCode !== null) return false;
  const status = readFileSync(`/proc/${child.pid ?? 0}/status`, "utf8");
  const [, caught = ""] = /^SigCgt:\s*([0-9a-f]+)$/m.exec(status) ?? [];
  // SIGHUP is the last that the command asks for, and none that Node hears by itself.
  return (BigInt(`0x${caught}`) & 1n) === 1n;
}

for (const signal of ["SIGINT", "SIGKILL"] as const) {
  test(`cli vm: ${signal} at random moments leaves no frozen guest and no half state`, async () => {
    await using vms = await createVmWorld();
    const { world, vm } = vms;
    const backup = ["vm", "backup", ...vm, ...world.vault];
    await world.ok(["vm", "start", ...vm]);
    await vms.guest((exec) => runInGuest(exec, "true"));
    await world.ok(backup);
    const prng = createPrng(testSeed());
    for (let round = 0; round < rounds; round++) {
      const delayMs = 100 + prng.below(1500);
      const child = world.start(backup);
      const ended = collect(child);
      await systemClock.sleep(delayMs);
      const stoppedMs = systemClock.monotonicMs();
      const isHeard = signal === "SIGINT" && listensForSignals(child);
      child.kill(signal);
      const result = await ended;
      const expected = isHeard ? [0, 130] : [0, 130, -1];
      assert.ok(expected.includes(result.code), `exit ${result.code}: ${result.stderr}`);
      const script = "touch /data/vdb/alive /data/vdc/alive && sync";
      await vms.guest((exec) => runInGuest(exec, script));
      const aliveMs = systemClock.monotonicMs() - stoppedMs;
      assert.ok(aliveMs < thawLimitMs + 5000, `the guest wrote again after ${aliveMs} ms`);
    }
    const { point } = await world.json<BackupOutput>(backup);
    assert.equal(point.consistency, "file-system");
    const points = await world.json<VmPointsOutput>(["vm", "points", ...vm, ...world.vault]);
    assert.deepEqual(points.points.at(-1)?.tiers, ["snapshot", "vault"]);
    // Of those that were stopped, some have a snapshot, and each of them can be restored.
    assert.ok(points.points.every(({ tiers }) => tiers.includes("snapshot")));
    const report = await world.json<VerifyOutput>(["image", "verify", ...world.vault]);
    assert.equal(report.verdict, "sound");
  });
}

test("cli vm: a transfer under way makes the next one skip, and killed it is taken up", async () => {
  await using vms = await createVmWorld();
  const { world, vm, lab } = vms;
  await world.ok(["vm", "start", ...vm]);
  const writeMiB = (name: string): Promise<unknown> =>
    vms.guest((exec) =>
      runInGuest(exec, `dd if=/dev/urandom of=/data/vdb/${name} bs=1M count=8; sync`),
    );
  await writeMiB("one");
  const backup = ["vm", "backup", ...vm, ...world.vault];
  const child = world.start(backup);
  const ended = collect(child);
  const lock = join(lab.directory, "state", "vms", "web", "transfer.lock");
  while (!existsSync(lock)) await systemClock.sleep(2);
  child.kill("SIGSTOP");
  await writeMiB("two");
  const skipped = await world.json<SnapshotOutput>(backup);
  assert.equal(skipped.kind, "snapshot");
  assert.equal(skipped.job.status, "Completed");
  assert.equal(skipped.job.transfer.status, "Skipped");
  assert.deepEqual(skipped.point.tiers, ["snapshot"]);
  child.kill("SIGKILL");
  await ended;
  const sent = await world.json<BackupOutput>(["vm", "transfer", ...vm, ...world.vault]);
  assert.equal(sent.point.id, skipped.point.id);
  assert.ok((sent.point.timing?.transferMs ?? 0) > 0);
  const again = await world.json<TransferOutput>(["vm", "transfer", ...vm, ...world.vault]);
  assert.equal(again.kind, "transfer");
  assert.match(again.transfer.reason ?? "", /in the vault already/);
  const hashes: string[] = [];
  for (const [tier, places] of [
    ["snapshot", vm],
    ["vault", world.vault],
  ] as const) {
    const folder = join(lab.directory, tier);
    await mkdir(folder);
    const words = ["--point", sent.point.id, "--directory", folder, "--name", tier];
    const format = ["--target-format", "raw"];
    const line = ["vm", "restore", "web", ...words, ...format, ...places];
    const restored = await world.json<RestoreOutput>(line);
    assert.equal(restored.tier, tier);
    for (const { target } of restored.disks) {
      hashes.push(
        createHash("sha256")
          .update(await readFile(target))
          .digest("hex"),
      );
    }
  }
  assert.equal(hashes.length, 6);
  assert.deepEqual(hashes.slice(0, 3), hashes.slice(3));
  const days = ["--snapshot-days", "31"];
  assertFailure(await world.run([...backup, ...days]), "ArgumentInvalid", /from 1 to 30/);
  const none = await world.json<ExpiryOutput>(["vm", "expire", ...vm]);
  assert.deepEqual(none.expired, []);
  const only = await world.json<SnapshotOutput>(["vm", "backup", "--snapshot-only", ...vm]);
  assert.equal(only.job.transfer.status, "Skipped");
  const away = ["--store", join(lab.directory, "away"), ...world.vault.slice(2)];
  assert.notEqual((await world.run(["vm", "backup", ...vm, ...away])).code, 0);
  const listed = await world.json<VmPointsOutput>(["vm", "points", ...vm]);
  assert.equal(listed.isVaultAsked, false);
  assert.equal(listed.points.at(-1)?.id, only.point.id);
});

test("cli vm: descriptions that are not valid, and states that do not allow it", async () => {
  await using world = await createWorld();
  const run = (...words: string[]) => world.run(words);
  assertFailure(await run("vm", "list", "--vm", "gone.json"), "ConfigInvalid", /gone.json/);
  await writeFile(world.at("bad.json"), '{ "name": "web", "memoryMiB": "much" }');
  assertFailure(await run("vm", "list", "--vms", "."), "ConfigInvalid", /bad.json.*"memoryMiB"/);
  await mkdir(world.at("none"));
  assertFailure(
    await run("vm", "start", "--vms", "none", "--state", world.at("s")),
    "ArgumentInvalid",
    /there is none/,
  );
  const restore = ["vm", "restore", "web", "--directory", world.at("none"), ...world.vault];
  assertFailure(await run(...restore), "RecoveryPointNotFound", /web/);
});
