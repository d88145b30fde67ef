/**
 * Goal: the lab gives tests real guests quickly, isolated from each other, with data that can be
 * checked from inside and outside. Method: start guests from the template and look.
 */
import { createHash } from "node:crypto";
import assert from "node:assert/strict";
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { systemClock } from "#base/clock.ts";
import { runTool } from "#drivers/process/run-tool.ts";
import { parseVmDescription } from "#drivers/qemu/description.ts";
import {
  Acknowledgements,
  acknowledgedRecord,
  checkAcknowledgedRecords,
  startAcknowledgedWriter,
} from "../../lab/acknowledged-writer.ts";
import { ensureImage } from "../../lab/build.ts";
import {
  checkExt4,
  exportRawImage,
  listExt4Directory,
  needsJournalReplay,
  readExt4File,
  replayExt4Journal,
} from "../../lab/ext4.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import {
  hashGuestFile,
  killInGuest,
  runInGuest,
  startInGuest,
  setGuestTime,
  syncGuest,
  trimFileSystem,
  writeRandomPages,
  writeSeededFile,
} from "../../lab/guest.ts";
import { createLabVm, type LabVm } from "../../lab/lab-vm.ts";
import {
  countRowsInGuest,
  countRowsInImage,
  installTwoDatabasesHook,
  startTwoDatabases,
} from "../../lab/two-databases.ts";

const bytesPerMiB = 1024 * 1024;

async function exportDisk(vm: LabVm, name: string): Promise<string> {
  const raw = join(vm.directory, `${name}.export.raw`);
  await exportRawImage(vm.diskPath(name), raw);
  return raw;
}

function sha256(bytes: Uint8Array | undefined): string {
  assert.ok(bytes !== undefined, "the file is there");
  return createHash("sha256").update(bytes).digest("hex");
}

async function waitForRows(exec: GuestExec, rows: number): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + 60_000;
  // The table is made by the application, a moment after it was started.
  await runInGuest(exec, "until [ -s /data/vdc/b.db ]; do sleep 0.01; done");
  while ((await countRowsInGuest(exec, "/data/vdc/b.db")) < rows) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, "the application inserts rows");
  }
}

test("lab image: is built once and found again", async () => {
  const image = await ensureImage("mini");
  assert.equal(await ensureImage("mini"), image);
  for (const name of ["vmlinuz", "initrd", "root.raw"]) await access(join(image, name));
  const check = await checkExt4(join(image, "root.raw"));
  assert.ok(check.isClean, check.report);
});

test("lab VM: starts warm, runs programs, freezes and thaws", async (t) => {
  await using vm = await createLabVm();
  const startMs = systemClock.monotonicMs();
  await using machine = await vm.start();
  t.diagnostic(`warm start: ${(systemClock.monotonicMs() - startMs).toFixed(0)} ms`);
  const shell = await machine.exec({
    path: "/bin/sh",
    args: ["-c", "cat; echo err >&2; exit 3"],
    stdin: Buffer.from("hello"),
  });
  assert.deepEqual(shell, { exitCode: 3, stdout: "hello", stderr: "err\n" });
  assert.equal(await machine.agent.request("guest-fsfreeze-freeze"), 3);
  assert.equal(await machine.agent.request("guest-fsfreeze-status"), "frozen");
  await assert.rejects(machine.exec({ path: "true", args: [] }), { code: "QmpFailed" });
  assert.equal(await machine.agent.request("guest-fsfreeze-thaw"), 3);
  assert.equal(await runInGuest(machine.exec, "echo thawed"), "thawed\n");
});

test("lab VM: writes a description that the QEMU driver takes as it is", async () => {
  await using vm = await createLabVm();
  const text = await readFile(vm.descriptionPath, "utf8");
  assert.deepEqual(parseVmDescription(text, vm.descriptionPath), vm.description);
});

test("lab VM: keeps the disks of two VMs apart and the template untouched", async () => {
  await using first = await createLabVm();
  await using second = await createLabVm();
  await using one = await first.start();
  await using two = await second.start();
  await runInGuest(one.exec, "echo one >/data/vdb/who; sync");
  await runInGuest(two.exec, "[ ! -e /data/vdb/who ] && echo two >/data/vdb/who; sync");
  assert.equal(await runInGuest(one.exec, "cat /data/vdb/who"), "one\n");
  assert.equal(await runInGuest(two.exec, "cat /data/vdb/who"), "two\n");
  await using third = await createLabVm({ disks: "qcow2" });
  await using three = await third.start();
  assert.equal(await runInGuest(three.exec, "ls /data/vdb"), "lost+found\n");
});

test("lab VM: boots a second time with what the first run wrote", async (t) => {
  await using vm = await createLabVm({ disks: "raw" });
  {
    await using machine = await vm.start();
    await runInGuest(machine.exec, "echo kept >/data/vdc/file; sync");
    await machine.shutDown();
  }
  const startMs = systemClock.monotonicMs();
  await using machine = await vm.start();
  t.diagnostic(`cold start: ${(systemClock.monotonicMs() - startMs).toFixed(0)} ms`);
  assert.equal(await runInGuest(machine.exec, "cat /data/vdc/file"), "kept\n");
  await setGuestTime(machine.exec, 2_000_000_000);
  assert.match(await runInGuest(machine.exec, "date +%s"), /^20000000\d\d\n$/);
});

test("lab VM: leaves no process and no file", async () => {
  const vm = await createLabVm();
  const machine = await vm.start();
  await vm[Symbol.asyncDispose]();
  await machine.daemon.exited;
  await assert.rejects(access(vm.directory), { code: "ENOENT" });
  await machine[Symbol.asyncDispose]();
});

test("lab VM: is removed by the next user when its owner was killed", async () => {
  const script =
    'const { createLabVm } = await import("./lab/lab-vm.ts"); const vm = await createLabVm();' +
    "console.log(vm.directory); await vm.start(); process.kill(process.pid, 'SIGKILL');";
  const cwd = fileURLToPath(new URL("../..", import.meta.url));
  const args = ["--input-type=module", "-e", script];
  const owner = await runTool(process.execPath, args, { cwd, timeoutMs: 120_000 });
  const directory = owner.stdout.trim();
  await access(join(directory, "vm.json"));
  const next =
    'const { createLabVm } = await import("./lab/lab-vm.ts"); await using vm = await createLabVm();';
  const nextArgs = ["--input-type=module", "-e", next];
  const user = await runTool(process.execPath, nextArgs, { cwd, timeoutMs: 120_000 });
  assert.equal(user.exitCode, 0, user.stderr);
  await assert.rejects(access(directory), { code: "ENOENT" });
});

test("lab guest: makes the same seeded content in every guest, and the host reads it back", async () => {
  await using vm = await createLabVm();
  await using other = await createLabVm();
  const hashes: string[] = [];
  for (const each of [vm, other]) {
    await using machine = await each.start();
    const file = { seed: 42, sizeBytes: 4 * bytesPerMiB };
    const written = await writeSeededFile(machine.exec, "/data/vdb/seeded", file);
    const plan = { seed: 7, pages: 100, syncEvery: 10 };
    const changed = await writeRandomPages(machine.exec, "/data/vdb/seeded", plan);
    assert.notEqual(written, changed);
    assert.equal(await hashGuestFile(machine.exec, "/data/vdb/seeded"), changed);
    hashes.push(written, changed);
    await machine.shutDown();
  }
  assert.deepEqual(hashes.slice(0, 2), hashes.slice(2));
  const raw = await exportDisk(vm, "vdb");
  assert.equal((await checkExt4(raw)).isClean, true);
  assert.deepEqual(await listExt4Directory(raw, "/"), ["lost+found", "seeded"]);
  assert.equal(sha256(await readExt4File(raw, "/seeded")), hashes[1]);
  assert.equal(await readExt4File(raw, "/absent"), undefined);
});

test("lab guest: discards what was deleted", async () => {
  await using vm = await createLabVm();
  await using machine = await vm.start();
  const file = { seed: 1, sizeBytes: 8 * bytesPerMiB };
  await writeSeededFile(machine.exec, "/data/vdc/gone", file);
  await runInGuest(machine.exec, "rm /data/vdc/gone");
  await syncGuest(machine.exec);
  assert.ok((await trimFileSystem(machine.exec, "/data/vdc")) >= 8 * bytesPerMiB);
});

test("lab guest: keeps every acknowledged write when QEMU is killed", async (t) => {
  const seed = 11;
  await using vm = await createLabVm();
  await using machine = await vm.start();
  using acknowledgements = await Acknowledgements.open(vm.paths.ackSocket, seed);
  await startAcknowledgedWriter(machine.exec, "/data/vdb/records", seed);
  const startMs = systemClock.monotonicMs();
  await acknowledgements.waitFor(50, 60_000);
  const seconds = (systemClock.monotonicMs() - startMs) / 1000;
  t.diagnostic(`${(50 / seconds).toFixed(0)} acknowledged records/s`);
  process.kill(machine.daemon.identity.pid, "SIGKILL");
  await machine.daemon.exited;
  const raw = await exportDisk(vm, "vdb");
  assert.equal(await needsJournalReplay(raw), true);
  await assert.rejects(readExt4File(raw, "/records"), { code: "ImageInvalid" });
  await replayExt4Journal(raw);
  const content = (await readExt4File(raw, "/records")) ?? new Uint8Array();
  const expected = { seed, lastNumber: acknowledgements.lastNumber };
  assert.ok(checkAcknowledgedRecords(content, expected) > 50);
  const torn = new Uint8Array(content);
  torn[20 * 4096 + 3000] = 0;
  assert.throws(() => checkAcknowledgedRecords(torn, expected), /record 20 of seed 11/);
  assert.equal(acknowledgedRecord(seed, 3).byteLength, 4096);
});

test("lab guest: runs the two-databases application, and its hook holds the lock while frozen", async () => {
  await using vm = await createLabVm();
  await using machine = await vm.start();
  await installTwoDatabasesHook(machine.exec);
  await startTwoDatabases(machine.exec, "/data/vdb/a.db", "/data/vdc/b.db");
  await waitForRows(machine.exec, 3);
  // Frozen and thawed once, the application goes on; frozen again, QEMU ends.
  await machine.agent.request("guest-fsfreeze-freeze");
  await machine.agent.request("guest-fsfreeze-thaw");
  const before = await countRowsInGuest(machine.exec, "/data/vdc/b.db");
  await waitForRows(machine.exec, before + 3);
  await machine.agent.request("guest-fsfreeze-freeze");
  await machine.qmp.request("quit");
  await machine.daemon.exited;
  const first = await countRowsInImage(await exportDisk(vm, "vdb"), "/a.db");
  const second = await countRowsInImage(await exportDisk(vm, "vdc"), "/b.db");
  assert.deepEqual(first, second);
  assert.equal(first.hadJournal, false);
  assert.ok(first.rows >= before + 3);
});

test("lab guest: ends what it started in the guest", async () => {
  await using vm = await createLabVm();
  await using machine = await vm.start();
  const pid = await startInGuest(machine.exec, ["sh", "-c", "sleep 1000; true"]);
  await killInGuest(machine.exec, pid);
  assert.equal(
    await runInGuest(machine.exec, 'grep -hs "(sleep) [^ZX]" /proc/[0-9]*/stat || echo none'),
    "none\n",
  );
});

if (process.env["KLUIS_LONG"] === "1") {
  test("lab VM: runs Debian with systemd, warm and cold", async (t) => {
    await using vm = await createLabVm({ guest: "full" });
    {
      const startMs = systemClock.monotonicMs();
      await using machine = await vm.start();
      t.diagnostic(`warm start: ${(systemClock.monotonicMs() - startMs).toFixed(0)} ms`);
      assert.equal(await machine.agent.request("guest-fsfreeze-freeze"), 3);
      assert.equal(await machine.agent.request("guest-fsfreeze-thaw"), 3);
      const file = { seed: 3, sizeBytes: bytesPerMiB };
      await writeSeededFile(machine.exec, "/data/vdb/file", file);
      await machine.shutDown();
    }
    const startMs = systemClock.monotonicMs();
    await using machine = await vm.start();
    t.diagnostic(`cold start: ${(systemClock.monotonicMs() - startMs).toFixed(0)} ms`);
    const inGuest = await hashGuestFile(machine.exec, "/data/vdb/file");
    await machine.shutDown();
    assert.equal(sha256(await readExt4File(await exportDisk(vm, "vdb"), "/file")), inGuest);
  });
}
