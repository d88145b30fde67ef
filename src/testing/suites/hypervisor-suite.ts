/**
 * What every Hypervisor must do, on real VMs; each driver runs this suite.
 *
 * The guest's own view of a disk, hashed by the guest, is the witness of what a snapshot must hold.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { SnapshotLabel, SnapshotRequest, VmDisk, VmSnapshot } from "#ports/hypervisor.ts";
import {
  CLUSTER,
  PAGE,
  assertChanges,
  diskOf,
  hashDevices,
  hashReader,
  hashSnapshot,
  readNumber,
  rejectsWith,
  startNumbers,
  writeRandom,
  type HypervisorFixture,
} from "./hypervisor-fixture.ts";
import { releaseBefore } from "../release-before.ts";
import { createPrng, testSeed } from "../seed.ts";

/** How the suite is run on one driver. */
export interface HypervisorSuite {
  readonly open: () => Promise<HypervisorFixture>;
  /** How many random rounds the tests with random writes take. */
  readonly rounds: number;
  /** How zeros that a guest writes show: not every hypervisor looks for them. Default `zero`. */
  readonly writtenZeros?: "zero" | "data";
  /** Names of the tests to run, where a set-up that costs time gets a part of them. */
  readonly part?: RegExp;
}

const freeze: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };
const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };

const sampleLabel: SnapshotLabel = {
  pointId: "20261122t175118043-02adf6cc",
  itemId: "vm:x",
  itemName: "x",
  vmConfiguration: "",
  days: 2,
};

/** Declares the tests of the suite for the driver called `name`. */
export function testHypervisor(name: string, suite: HypervisorSuite): void {
  const declare = (title: string, run: () => Promise<void>): void => {
    if (suite.part?.test(title) !== false) void test(title, run);
  };
  declare(`${name}: lists a VM with its disks and its state`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    const [vm] = (await hypervisor.list()).filter((each) => each.id === vmId);
    assert.equal(vm?.state, "stopped");
    for (const device of devices) {
      const disk: VmDisk | undefined = vm.disks.find((each) => each.name === device.disk);
      assert.equal(disk?.sizeBytes, device.sizeBytes);
      assert.ok(disk.path.startsWith("/"));
    }
    await hypervisor.start(vmId);
    assert.equal((await hypervisor.get(vmId)).state, "running");
    await rejectsWith(hypervisor.start(vmId), "VmStateWrong");
    await rejectsWith(hypervisor.get("no-such-vm"), "VmNotFound");
    await rejectsWith(hypervisor.takeSnapshot("no-such-vm", crash), "VmNotFound");
  });

  declare(`${name}: freezes the guest, thaws it, and holds what it saw`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 6 });
    const hashes = await hashDevices(fixture);
    const snapshot = await hypervisor.takeSnapshot(vmId, freeze);
    const {
      consistency,
      reason,
      frozenMs = Infinity,
      fileSystemsFrozen = 0,
    } = snapshot.consistency;
    assert.equal(consistency, "file-system", reason);
    assert.ok(frozenMs <= freeze.freezeBudgetMs && fileSystemsFrozen >= 1);
    await fixture.run("echo thawed >/root/thawed; sync; rm /root/thawed");
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 6 });
    assert.deepEqual(await hashSnapshot(fixture, snapshot), hashes);
    const [listed] = await (await fixture.reopen()).listSnapshots(vmId);
    assert.equal(listed?.id, snapshot.id);
    assert.deepEqual(listed.consistency, snapshot.consistency);
    assert.deepEqual(await hashSnapshot(fixture, listed), hashes);
  });

  declare(`${name}: says why a snapshot is only crash-consistent`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId } = fixture;
    const stopped = await hypervisor.takeSnapshot(vmId, freeze);
    assert.equal(stopped.consistency.consistency, "crash");
    assert.ok((stopped.consistency.reason ?? "").length > 0);
    await hypervisor.start(vmId);
    const asked = await hypervisor.takeSnapshot(vmId, crash);
    assert.equal(asked.consistency.consistency, "crash");
    assert.ok((asked.consistency.reason ?? "").length > 0);
    assert.equal(asked.consistency.frozenMs, undefined);
  });

  declare(`${name}: names exactly the pages that were written or discarded`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 12 });
    let base = await hypervisor.takeSnapshot(vmId, crash);
    let late = new Set<number>();
    for (let round = 0; round < suite.rounds; round += 1) {
      const touched: Set<number>[] = [];
      for (const device of devices) {
        touched.push(await writeRandom(fixture, device, { prng, writes: 10 }));
      }
      const hashes = await hashDevices(fixture);
      const snapshot = await hypervisor.takeSnapshot(vmId, crash);
      for (const page of late) touched[0]?.add(page);
      late = await writeRandom(fixture, devices[0], { prng, writes: 2 });
      for (const [index, device] of devices.entries()) {
        const pages = touched[index] ?? new Set();
        await assertChanges(snapshot, { base, device, pages, hash: hashes[index] ?? "" });
      }
      await releaseBefore(hypervisor, vmId, snapshot.id);
      base = snapshot;
    }
  });

  declare(`${name}: tells discards and written zeros as zeros`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const fill = `bs=${String(CLUSTER)} count=6 conv=notrunc,fsync 2>/dev/null`;
    for (const { path } of devices) await fixture.run(`dd if=/dev/urandom of=${path} ${fill}`);
    const base = await hypervisor.takeSnapshot(vmId, crash);
    for (const { path } of devices) {
      const range = `-o ${String(CLUSTER)} -l ${String(CLUSTER)}`;
      const zeros = `if=/dev/zero bs=${String(PAGE)} count=2 seek=${String((4 * CLUSTER) / PAGE)}`;
      await fixture.run(`blkdiscard ${range} ${path}; dd ${zeros} of=${path} conv=notrunc,fsync`);
    }
    const snapshot = await hypervisor.takeSnapshot(vmId, crash);
    for (const device of devices) {
      const answer = await diskOf(snapshot, device.disk).changesSince(base.id);
      assert.ok(answer.known);
      assert.deepEqual(answer.extents, [
        { offsetBytes: CLUSTER, lengthBytes: CLUSTER, kind: "zero" },
        { offsetBytes: 4 * CLUSTER, lengthBytes: 2 * PAGE, kind: suite.writtenZeros ?? "zero" },
      ]);
    }
  });

  declare(`${name}: takes all disks at one instant under a writer`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    await startNumbers(fixture);
    let last = 0;
    for (let round = 0; round < suite.rounds; round += 1) {
      const snapshot = await hypervisor.takeSnapshot(vmId, round % 2 === 0 ? crash : freeze);
      const numbers = [];
      for (const device of devices) numbers.push(await readNumber(diskOf(snapshot, device.disk)));
      const [ahead = 0, behind = 0] = numbers;
      assert.ok(ahead - behind === 0 || ahead - behind === 1, `${String(ahead)}/${String(behind)}`);
      assert.ok(behind >= last, "numbers grow");
      last = behind;
      await releaseBefore(hypervisor, vmId, snapshot.id);
    }
    assert.ok(last > 0, "the writer wrote");
  });

  declare(`${name}: keeps a snapshot that is being read, and merges it afterwards`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const { taken, hashes } = await takeChanged(fixture, 4);
    const [, second, third, fourth] = taken as [VmSnapshot, VmSnapshot, VmSnapshot, VmSnapshot];
    {
      await using reader = await diskOf(second, devices[0].disk).open();
      await rejectsWith(releaseBefore(hypervisor, vmId, fourth.id), "SnapshotInUse");
      assert.equal(await hashReader(reader), hashes[1]?.[0]);
      const left = await hypervisor.listSnapshots(vmId);
      assert.ok(left.some((snapshot) => snapshot.id === second.id));
    }
    await releaseBefore(hypervisor, vmId, fourth.id);
    const left = await hypervisor.listSnapshots(vmId);
    assert.deepEqual(
      left.map((snapshot) => snapshot.id),
      [fourth.id],
    );
    assert.deepEqual(await hashSnapshot(fixture, fourth), hashes[3]);
    assert.deepEqual(await hashDevices(fixture), hashes[3]);
    const answer = await diskOf(fourth, devices[0].disk).changesSince(third.id);
    assert.equal(answer.known, false);
    assert.equal(await diskOf(fourth, devices[0].disk).openBase(third.id), undefined);
  });

  declare(`${name}: keeps a label and notes of bases durably with a snapshot`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId } = fixture;
    const label = { ...sampleLabel, vmConfiguration: "ä".repeat(100_000) };
    const first = await hypervisor.takeSnapshot(vmId, { ...crash, label });
    assert.deepEqual(first.label, label);
    const second = await hypervisor.takeSnapshot(vmId, crash);
    await hypervisor.markBase(vmId, { vaultId: "a", snapshotId: first.id });
    await hypervisor.markBase(vmId, { vaultId: "b", snapshotId: first.id });
    await hypervisor.markBase(vmId, { vaultId: "b", snapshotId: second.id });
    await hypervisor.markBase(vmId, { vaultId: "c", snapshotId: "gone" });
    const listed = await (await fixture.reopen()).listSnapshots(vmId);
    assert.deepEqual(
      listed.map(({ id, label: kept, baseOf }) => ({ id, kept, baseOf })),
      [
        { id: first.id, kept: label, baseOf: ["a"] },
        { id: second.id, kept: undefined, baseOf: ["b"] },
      ],
    );
  });

  for (const state of ["running", "stopped"] as const) {
    declare(
      `${name}: releases any of a ${state} VM's snapshots, never a layer that is read`,
      async () => {
        await using fixture = await suite.open();
        const { hypervisor, vmId, devices } = fixture;
        await hypervisor.start(vmId);
        const { taken, hashes } = await takeChanged(fixture, 5);
        if (state === "stopped") await fixture.shutDown();
        const at = (index: number): VmSnapshot => {
          const snapshot = taken[index];
          assert.ok(snapshot !== undefined);
          return snapshot;
        };
        const release = (...indexes: readonly number[]): Promise<void> =>
          hypervisor.releaseSnapshots(vmId, new Set(indexes.map((index) => at(index).id)));
        const assertLeft = async (...indexes: readonly number[]): Promise<void> => {
          const left = await hypervisor.listSnapshots(vmId);
          assert.deepEqual(
            left.map(({ id }) => id),
            indexes.map((index) => at(index).id),
          );
          for (const [place, index] of indexes.entries()) {
            assert.deepEqual(await hashSnapshot(fixture, left[place] as VmSnapshot), hashes[index]);
          }
        };
        {
          // Condemned at once; its layer waits, because it lies below one that is read.
          await using reader = await diskOf(at(2), devices[0].disk).open();
          await rejectsWith(release(1), "SnapshotInUse");
          await rejectsWith(release(2), "SnapshotInUse");
          await assertLeft(0, 2, 3, 4);
          // Above what is read there is room.
          await release(3).catch((error: unknown) =>
            assert.ok(isKluisError(error, "SnapshotInUse")),
          );
          await assertLeft(0, 2, 4);
          assert.equal(await hashReader(reader), hashes[2]?.[0]);
        }
        await release();
        await assertLeft(0, 2, 4);
        const space = await hypervisor.readSpace(vmId);
        assert.ok(space.every(({ layers, freeBytes }) => layers === 4 && freeBytes > 0));
        await release(0);
        await assertLeft(2, 4);
        const changes = await diskOf(at(4), devices[0].disk).changesSince(at(2).id);
        assert.ok(changes.known);
        await release(4, 2);
        assert.deepEqual(await hypervisor.listSnapshots(vmId), []);
        if (state === "stopped") await hypervisor.start(vmId);
        assert.deepEqual(await hashDevices(fixture), hashes[4]);
      },
    );
  }

  declare(`${name}: leaves out disks that are not wanted`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    const [first, second] = devices;
    const { disks } = await hypervisor.get(vmId);
    const osDisk = disks[0]?.name ?? "";
    await rejectsWith(
      hypervisor.takeSnapshot(vmId, { ...crash, disks: { exclude: [osDisk] } }),
      "ArgumentInvalid",
    );
    await hypervisor.start(vmId);
    const namesOf = (snapshot: VmSnapshot): readonly string[] =>
      snapshot.disks.map((each) => each.name);
    const prng = createPrng(testSeed());
    const both = await hypervisor.takeSnapshot(vmId, crash);
    await writeRandom(fixture, second, { prng, writes: 4 });
    const listed = await hypervisor.takeSnapshot(vmId, {
      ...crash,
      disks: { include: [first.disk] },
    });
    assert.deepEqual(namesOf(listed), [osDisk, first.disk]);
    const pages = await writeRandom(fixture, first, { prng, writes: 4 });
    const without = { ...crash, disks: { exclude: [second.disk] } };
    const some = await hypervisor.takeSnapshot(vmId, without);
    assert.deepEqual(namesOf(some), [osDisk, first.disk]);
    const layersOf = async (disk: string): Promise<number | undefined> =>
      (await hypervisor.readSpace(vmId)).find((each) => each.name === disk)?.layers;
    assert.equal(await layersOf(first.disk), 4);
    assert.equal(await layersOf(second.disk), 2);
    for (const disks of [without.disks, { include: [first.disk] }]) {
      const space = await hypervisor.readSpace(vmId, disks);
      assert.deepEqual(
        space.map((each) => each.name),
        [osDisk, first.disk],
      );
    }
    const [hash = ""] = await hashDevices(fixture);
    await assertChanges(some, { base: listed, device: first, pages, hash });
    await hypervisor.releaseSnapshots(vmId, new Set([both.id, listed.id]));
    const all = await hypervisor.takeSnapshot(vmId, crash);
    assert.deepEqual(await hashSnapshot(fixture, all), await hashDevices(fixture));
    assert.equal((await diskOf(all, second.disk).changesSince(some.id)).known, false);
    await hypervisor.detach(vmId);
  });

  declare(`${name}: one transfer of a VM runs at a time`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId } = fixture;
    const other = await fixture.reopen();
    {
      await using _ = await hypervisor.beginTransfer(vmId);
      await rejectsWith(other.beginTransfer(vmId), "Busy");
      await hypervisor.takeSnapshot(vmId, crash);
    }
    await using _ = await other.beginTransfer(vmId);
  });

  declare(`${name}: takes a stopped VM, which may start while it is read`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 6 });
    const hashes = await hashDevices(fixture);
    await fixture.shutDown();
    const snapshot = await hypervisor.takeSnapshot(vmId, crash);
    await using reader = await diskOf(snapshot, devices[1].disk).open();
    await hypervisor.start(vmId);
    assert.deepEqual(await hashDevices(fixture), hashes);
    const pages = await writeRandom(fixture, devices[1], { prng, writes: 6 });
    assert.equal(await hashReader(reader), hashes[1]);
    const after = await hashDevices(fixture);
    const next = await hypervisor.takeSnapshot(vmId, crash);
    const device = devices[1];
    await assertChanges(next, { base: snapshot, device, pages, hash: after[1] ?? "" });
  });

  declare(`${name}: loses nothing by a power cut between snapshots`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    let base: VmSnapshot | undefined;
    for (let round = 0; round < 2; round += 1) {
      for (const device of devices) await writeRandom(fixture, device, { prng, writes: 4 });
      base = await hypervisor.takeSnapshot(vmId, crash);
    }
    const pages = await writeRandom(fixture, devices[0], { prng, writes: 4 });
    const hashes = await hashDevices(fixture);
    await fixture.cutPower();
    const restarted = await fixture.reopen();
    assert.equal((await restarted.get(vmId)).state, "stopped");
    await restarted.start(vmId);
    assert.deepEqual(await hashDevices(fixture), hashes);
    const snapshot = await restarted.takeSnapshot(vmId, crash);
    assert.ok(base !== undefined);
    const device = devices[0];
    await assertChanges(snapshot, { base, device, pages, hash: hashes[0] ?? "" });
  });

  for (const state of ["running", "stopped"] as const) {
    declare(`${name}: detaches a ${state} VM to one file for each disk`, async () => {
      await using fixture = await suite.open();
      const { hypervisor, vmId, devices } = fixture;
      await hypervisor.start(vmId);
      const prng = createPrng(testSeed());
      let last: VmSnapshot | undefined;
      for (let round = 0; round < 3; round += 1) {
        for (const device of devices) await writeRandom(fixture, device, { prng, writes: 4 });
        last = await hypervisor.takeSnapshot(vmId, crash);
      }
      for (const device of devices) await writeRandom(fixture, device, { prng, writes: 4 });
      if (state === "stopped") await fixture.shutDown();
      await hypervisor.detach(vmId);
      assert.deepEqual(await hypervisor.listSnapshots(vmId), []);
      if (state === "stopped") await hypervisor.start(vmId);
      for (const device of devices) await writeRandom(fixture, device, { prng, writes: 2 });
      const hashes = await hashDevices(fixture);
      await fixture.shutDown();
      for (const [index, device] of devices.entries()) {
        const image = await fixture.readConfiguredImage(device.disk);
        assert.equal(createHash("sha256").update(image).digest("hex"), hashes[index]);
      }
      const snapshot = await hypervisor.takeSnapshot(vmId, crash);
      assert.deepEqual(await hashSnapshot(fixture, snapshot), hashes);
      const answer = await diskOf(snapshot, devices[0].disk).changesSince(last?.id ?? "");
      assert.equal(answer.known, false);
    });
  }

  declare(`${name}: refuses to detach while a snapshot is being read`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    const snapshot = await hypervisor.takeSnapshot(vmId, crash);
    const reader = await diskOf(snapshot, devices[0].disk).open();
    await rejectsWith(hypervisor.detach(vmId), "SnapshotInUse");
    await reader[Symbol.asyncDispose]();
    await hypervisor.detach(vmId);
  });

  declare(`${name}: does one operation on a VM at a time`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId } = fixture;
    await hypervisor.start(vmId);
    const other = await fixture.reopen();
    const outcomes = await Promise.allSettled([
      hypervisor.takeSnapshot(vmId, freeze),
      other.takeSnapshot(vmId, freeze),
    ]);
    const refused = outcomes.filter((outcome) => outcome.status === "rejected");
    assert.equal(refused.length, 1);
    assert.ok(isKluisError(refused[0]?.reason, "Busy"));
    assert.equal((await hypervisor.listSnapshots(vmId)).length, 1);
    await hypervisor.takeSnapshot(vmId, crash);
  });

  declare(`${name}: leaves the VM as it was when a snapshot is cancelled`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId } = fixture;
    await hypervisor.start(vmId);
    const cancel = new AbortController();
    const reason = new Error("not wanted any more");
    const snapshot = hypervisor.takeSnapshot(vmId, freeze, cancel.signal);
    cancel.abort(reason);
    await assert.rejects(snapshot, reason);
    assert.deepEqual(await hypervisor.listSnapshots(vmId), []);
    await fixture.run("echo goes on >/root/x; sync; rm /root/x");
    const next = await hypervisor.takeSnapshot(vmId, freeze);
    assert.equal(next.consistency.consistency, "file-system", next.consistency.reason);
  });
}

/** Snapshots, each after random changes of all disks; with the hashes of these as the guest saw them then. */
async function takeChanged(
  fixture: HypervisorFixture,
  rounds: number,
): Promise<{
  readonly taken: readonly VmSnapshot[];
  readonly hashes: readonly (readonly string[])[];
}> {
  const { hypervisor, vmId, devices } = fixture;
  const prng = createPrng(testSeed());
  const taken: VmSnapshot[] = [];
  const hashes: (readonly string[])[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 4 });
    hashes.push(await hashDevices(fixture));
    taken.push(await hypervisor.takeSnapshot(vmId, crash));
  }
  return { taken, hashes };
}
