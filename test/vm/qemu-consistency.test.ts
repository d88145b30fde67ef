/**
 * Goal: a snapshot is one instant of all disks for an application whose data spans two of them.
 * Method: the two-databases application writes number n into one database and then into the other;
 * the frozen layers are read on the host, without the guest.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { parseVmRecord } from "#drivers/layers/vm-record.ts";
import type { SnapshotRequest, VmSnapshot } from "#ports/hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import { takesAll } from "#testing/slice.ts";
import { exportRawImage, needsJournalReplay, replayExt4Journal } from "../../lab/ext4.ts";
import { runInGuest } from "../../lab/guest.ts";
import {
  countRowsInGuest,
  countRowsInImage,
  installTwoDatabasesHook,
  installTwoDatabasesScripts,
  startTwoDatabases,
  type DatabaseInImage,
} from "../../lab/two-databases.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const freeze: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };
const application: SnapshotRequest = { consistency: "application", freezeBudgetMs: 10_000 };
const rounds = process.env["KLUIS_LONG"] === "1" ? 20 : takesAll ? 2 : 1;
const rowsTimeoutMs = 60_000;

interface FrozenDatabase extends DatabaseInImage {
  /** Whether the file system was frozen as after a power cut, with its journal full. */
  readonly wasDirty: boolean;
}

/** A database as the frozen layer of a disk holds it. */
async function readFrozen(
  vm: DrivenVm,
  snapshot: VmSnapshot,
  place: { readonly disk: string; readonly file: string },
): Promise<FrozenDatabase> {
  const recordPath = join(vm.stateDirectory, "vms", vm.vmId, "record.json");
  const record = parseVmRecord(await readFile(recordPath), recordPath);
  const taken = record.snapshots.find((each) => each.id === snapshot.id);
  const number = taken?.disks.find((each) => each.name === place.disk)?.layer;
  const disk = record.disks.find((each) => each.name === place.disk);
  const layer = disk?.layers.find((each) => each.number === number);
  assert.ok(layer !== undefined, "the snapshot has a frozen layer");
  const raw = join(vm.lab.directory, `${place.disk}.frozen.raw`);
  await exportRawImage(layer.path, raw);
  const wasDirty = await needsJournalReplay(raw);
  if (wasDirty) await replayExt4Journal(raw);
  return { ...(await countRowsInImage(raw, place.file)), wasDirty };
}

async function readBoth(
  vm: DrivenVm,
  snapshot: VmSnapshot,
): Promise<readonly [FrozenDatabase, FrozenDatabase]> {
  return [
    await readFrozen(vm, snapshot, { disk: "vdb", file: "/a.db" }),
    await readFrozen(vm, snapshot, { disk: "vdc", file: "/b.db" }),
  ];
}

async function startApplication(vm: DrivenVm): Promise<void> {
  await startTwoDatabases(vm.exec, "/data/vdb/a.db", "/data/vdc/b.db");
  await runInGuest(vm.exec, "until [ -s /data/vdc/b.db ]; do sleep 0.01; done");
  await waitForRows(vm, 2);
}

async function waitForRows(vm: DrivenVm, rows: number): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + rowsTimeoutMs;
  while ((await countRowsInGuest(vm.exec, "/data/vdc/b.db")) < rows) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, "the application inserts rows");
  }
}

test("consistency: without a freeze both disks are as after one power cut", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await startApplication(vm);
  for (let round = 0; round < rounds; round += 1) {
    const snapshot = await vm.hypervisor.takeSnapshot(vm.vmId, crash);
    const [first, second] = await readBoth(vm, snapshot);
    t.diagnostic(`${String(first.rows)} and ${String(second.rows)} rows`);
    const ahead = first.rows - second.rows;
    assert.ok(ahead === 0 || ahead === 1, "the second database is never ahead, nor far behind");
    assert.ok(first.wasDirty && second.wasDirty, "the journals were in use");
    await releaseBefore(vm.hypervisor, vm.vmId, snapshot.id);
    await waitForRows(vm, second.rows + 2);
  }
});

test("consistency: frozen with the application's hook, both databases are equal and at rest", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await installTwoDatabasesHook(vm.exec);
  await startApplication(vm);
  for (let round = 0; round < rounds; round += 1) {
    const snapshot = await vm.hypervisor.takeSnapshot(vm.vmId, freeze);
    const { consistency, reason, frozenMs } = snapshot.consistency;
    assert.equal(consistency, "file-system", reason);
    const [first, second] = await readBoth(vm, snapshot);
    t.diagnostic(`${String(first.rows)} rows, frozen for ${String(frozenMs)} ms`);
    assert.deepEqual(first, second);
    assert.equal(first.hadJournal, false, "no transaction was under way");
    assert.equal(first.wasDirty, false, "the file system was written out");
    await releaseBefore(vm.hypervisor, vm.vmId, snapshot.id);
    await waitForRows(vm, second.rows + 2);
  }
});

test("consistency: with the application's pre and post scripts, every point is application-consistent", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await installTwoDatabasesScripts(vm.exec);
  // What a guest does for the first time under emulation takes seconds.
  await vm.hypervisor.takeSnapshot(vm.vmId, application);
  await startApplication(vm);
  for (let round = 0; round < rounds; round += 1) {
    const snapshot = await vm.hypervisor.takeSnapshot(vm.vmId, application);
    const { consistency, reason, evidence } = snapshot.consistency;
    assert.equal(consistency, "application", reason);
    const [first, second] = await readBoth(vm, snapshot);
    const { appName, quiescedMs } = evidence?.scripts ?? {};
    t.diagnostic(`${String(first.rows)} rows, at rest for ${String(quiescedMs)} ms`);
    assert.equal(appName, "two-databases");
    assert.deepEqual(first, second);
    assert.equal(first.hadJournal, false, "no transaction was under way");
    assert.equal(first.wasDirty, false, "the file system was written out");
    await releaseBefore(vm.hypervisor, vm.vmId, snapshot.id);
    await waitForRows(vm, second.rows + 2);
  }
});

test("consistency: the example scripts for SQLite leave no transaction open, and let writers go on", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await installSqliteExample(vm, ["/data/vdb/a.db", "/data/vdc/b.db"]);
  await startApplication(vm);
  // What a guest does for the first time under emulation takes seconds.
  await vm.hypervisor.takeSnapshot(vm.vmId, application);
  for (let round = 0; round < rounds; round += 1) {
    const snapshot = await vm.hypervisor.takeSnapshot(vm.vmId, application);
    const { consistency, reason } = snapshot.consistency;
    assert.equal(consistency, "application", reason);
    const [first, second] = await readBoth(vm, snapshot);
    t.diagnostic(`${String(first.rows)} and ${String(second.rows)} rows`);
    assert.equal(first.hadJournal || second.hadJournal, false, "no transaction was under way");
    // It knows databases, not what an application writes into two of them.
    assert.ok([0, 1].includes(first.rows - second.rows));
    await releaseBefore(vm.hypervisor, vm.vmId, snapshot.id);
    await waitForRows(vm, second.rows + 2);
  }
});

/** Puts the scripts that ship as examples into the guest, for these databases. */
async function installSqliteExample(vm: DrivenVm, databases: readonly string[]): Promise<void> {
  const examples = join(import.meta.dirname, "../../examples/scripts/sqlite");
  const name = "VMSnapshotScriptPluginConfig.json";
  const shipped = JSON.parse(await readFile(join(examples, name), "utf8")) as object;
  const files = {
    [name]: JSON.stringify({ ...shipped, preScriptParams: databases }),
    "sqlite/pre.sh": await readFile(join(examples, "pre.sh"), "utf8"),
    "sqlite/post.sh": await readFile(join(examples, "post.sh"), "utf8"),
  };
  for (const [file, content] of Object.entries(files)) {
    const script = 'umask 077; mkdir -p /etc/azure/sqlite; printf %s "$2" >"/etc/azure/$1"';
    await runInGuest(vm.exec, script, [file, content]);
  }
}
