/**
 * Goal: a chain of bitmaps that has become long, was stopped, or belongs to a disk that was smaller in
 * between names all that changed or says that it does not know; jobs of others are left alone. Method: a real VM on which somebody
 * else works over QEMU's second monitor; pages that the test wrote.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { BITMAPS_MAX } from "#drivers/fleecing/bitmap-chain.ts";
import type { JsonObject } from "#formats/qmp-wire.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { ChangesAnswer, FleecedSnapshot, FleeceRequest } from "#ports/hypervisor.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { diskOf, toPageKinds, writeRandom } from "#testing/suites/hypervisor-fixture.ts";
import { createDeviceRun, fixtureDevices, fixtureDisksMiB } from "./device-fixture.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { listFleeceLeftovers } from "./fleece-witness.ts";

const request: FleeceRequest = { consistency: "crash", freezeBudgetMs: 1_000, reserveBytes: 0 };
const [vdb, vdc] = fixtureDevices;

/** A VM that runs, and what the tests do with it. */
async function openChainVm() {
  const vm = await createDrivenVm({ dataDisksMiB: fixtureDisksMiB, rawDisk: "vdb" });
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const devices = fixtureDevices;
  const guest = { run: createDeviceRun(vm.exec), devices };
  // The first run wipes the devices, which is to be before the first instant.
  await guest.run("true");
  const prng = createPrng(testSeed());
  const take = (change: Partial<FleeceRequest> = {}): Promise<FleecedSnapshot> =>
    hypervisor.takeFleecedSnapshot(vmId, { ...request, ...change });
  return {
    ...vm,
    take,
    /** Takes an instant and drops it, as a transfer that fails does; returns its id. */
    fail: async (): Promise<string> => {
      await using fleece = await take();
      return fleece.id;
    },
    /** Takes an instant and says that its point is committed. */
    commit: async (change?: Partial<FleeceRequest>, vaultId = "vault"): Promise<string> => {
      await using fleece = await take(change);
      await fleece.markBase(vaultId);
      return fleece.id;
    },
    write: (device = vdb): Promise<Set<number>> => writeRandom(guest, device, { prng, writes: 3 }),
    read: async (baseId: string, device = vdb): Promise<ChangesAnswer> => {
      await using fleece = await take();
      return await diskOf(fleece, device.disk).changesSince(baseId);
    },
  };
}

function assertNames(answer: ChangesAnswer, written: ReadonlySet<number>): void {
  assert.ok(answer.known, answer.known ? "" : answer.reason);
  const byNumber = (a: number, b: number): number => a - b;
  const named = [...toPageKinds(answer.extents).keys()].sort(byNumber);
  assert.deepEqual(named, [...written].sort(byNumber));
}

function assertUnknown(answer: ChangesAnswer, reason: RegExp): void {
  assert.ok(!answer.known, "it must not say that it knows");
  assert.match(answer.reason, reason);
}

async function listBitmaps(vm: DrivenVm): Promise<readonly string[]> {
  return (await listFleeceLeftovers(vm)).filter((each) => each.startsWith("bitmap "));
}

/** Somebody else's work on QEMU. */
async function meddle(vm: DrivenVm, command: string, args: JsonObject = {}): Promise<unknown> {
  await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
  return await qmp.execute(command, args);
}

/** The node of a disk, and the newest bitmap on it. */
async function newestBitmap(vm: DrivenVm, disk: string): Promise<{ node: string; name: string }> {
  const node = `disk-${disk}-0`;
  const nodes = await meddle(vm, "query-named-block-nodes", { flat: true });
  const found = (nodes as readonly JsonObject[]).find((each) => each["node-name"] === node);
  const bitmaps = (found?.["dirty-bitmaps"] ?? []) as readonly JsonObject[];
  const sequenceOf = (name: unknown): number => Number(String(name).split(":")[1]);
  const names = bitmaps.map((each) => String(each["name"]));
  const [name = ""] = names.sort((a, b) => sequenceOf(b) - sequenceOf(a));
  return { node, name };
}

test("fleecing bitmaps: as many transfers fail as there may be bitmaps, and what changed stays known", async () => {
  await using vm = await openChainVm();
  const baseId = await vm.commit();
  const written = new Set<number>();
  for (let run = 1; run < BITMAPS_MAX; run += 1) {
    for (const page of await vm.write()) written.add(page);
    await vm.fail();
  }
  const { length } = await listBitmaps(vm);
  assert.equal(length, BITMAPS_MAX * 3);
  for (const page of await vm.write()) written.add(page);
  // The run that merges is the one that reads.
  assertNames(await vm.read(baseId), written);
  assert.ok((await listBitmaps(vm)).length < length);
  // A base whose note was lost with its process is told by the vault.
  const kept = await vm.fail();
  const after = await vm.write();
  for (let run = 0; run < BITMAPS_MAX; run += 1) {
    await using _ = await vm.take({ base: { vaultId: "vault", snapshotId: kept } });
  }
  assertNames(await vm.read(kept), after);
});

test("fleecing bitmaps: one that was stopped, or a disk that was smaller in between, is never believed", async () => {
  await using vm = await openChainVm();
  const baseId = await vm.commit();
  await meddle(vm, "block-dirty-bitmap-disable", await newestBitmap(vm, "vdb"));
  await vm.write();
  await vm.fail();
  // The newest records again, and says nothing of what was written before it was there.
  assertUnknown(await vm.read(baseId), /begin anew/);
  const next = await vm.commit();
  assertNames(await vm.read(next), new Set());

  const sizeTo = (sizeBytes: number): Promise<unknown> =>
    meddle(vm, "block_resize", { "node-name": "disk-vdc-0", size: sizeBytes });
  await vm.write(vdc);
  await sizeTo(vdc.sizeBytes / 2);
  await vm.fail();
  await sizeTo(vdc.sizeBytes);
  assertUnknown(await vm.read(next, vdc), /begin anew/);
  assertNames(await vm.read(next), new Set());
});

test("fleecing bitmaps: those of a disk that is left out go with the last base that needs them", async () => {
  await using vm = await openChainVm();
  const ofVdc = async (): Promise<string> => (await newestBitmap(vm, vdc.disk)).name;
  await vm.commit();
  const both = await vm.commit({}, "second");
  const without = { disks: { exclude: [vdc.disk] } };
  await vm.commit(without);
  assert.match(await ofVdc(), new RegExp(both));
  await vm.commit(without, "second");
  assert.equal(await ofVdc(), "");
  assert.equal((await listBitmaps(vm)).length, 2 * 2);
});

test("fleecing bitmaps: no instant is taken while somebody else copies a disk", async () => {
  await using vm = await openChainVm();
  const node = "disk-vdc-0";
  const sink = { driver: "null-co", "node-name": "sink", size: vdc.sizeBytes };
  await meddle(vm, "blockdev-add", sink);
  const copy = { "job-id": "other", device: node, target: "sink", sync: "full", speed: 1 };
  await meddle(vm, "blockdev-mirror", copy);
  // The copy has a bitmap of its own.
  const before = await listFleeceLeftovers(vm);
  await assert.rejects(vm.take(), (error) => isKluisError(error, "Busy"));
  assert.deepEqual(await listFleeceLeftovers(vm), before);
  await meddle(vm, "block-job-cancel", { device: "other", force: true });
  const deadlineMs = systemClock.monotonicMs() + 10_000;
  while (((await meddle(vm, "query-block-jobs")) as readonly unknown[]).length > 0) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, "the copy has ended");
    await systemClock.sleep(20);
  }
  await vm.commit();
});
