/**
 * Goal: a recovery point made without a snapshot tier holds the disks as they were at its instant, an
 * increment by bitmaps as well as one by checksums, and a transfer that fails costs the point and
 * nothing else; an instant that cannot be kept is given up, never the guest. Method: a real VM under
 * writers, with independent copies made while the machine stood still; failures are injected.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { truncate } from "node:fs/promises";
import { join } from "node:path";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { endExports, exportFleece, openFleecedDisk } from "#drivers/fleecing/fleece-exports.ts";
import {
  attachFleece,
  detachFleece,
  findDisks,
  takeFleeceInstant,
} from "#drivers/fleecing/fleece-graph.ts";
import { parseVmDescription } from "#drivers/qemu/description.ts";
import { QmpMonitor } from "#drivers/qemu/qmp-monitor.ts";
import { planVmContext } from "#drivers/qemu/vm-context.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import { rejectsWith } from "#testing/suites/hypervisor-fixture.ts";
import { runInGuest, syncGuest, writeRandomPages, writeSeededFile } from "../../lab/guest.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { openFleeceWitness, type FleeceWitness } from "./fleece-witness.ts";
import { createProtectedVm, findDifference, type ProtectedVm } from "./protected-vm.ts";

const MiB = 1024 * 1024;

/** The data disks of the point in the vault equal the witness's copies; the large one is evidence/fleecing.ts'. */
async function assertIsWitnessed(
  world: ProtectedVm,
  witness: FleeceWitness,
  point: RecoveryPoint,
): Promise<void> {
  for (const disk of point.disks.filter(({ name }) => name !== "vda")) {
    await using kept = world.vault.openDisk(disk);
    await using copy = await openDiskImage(witness.pathOf(disk.name), { format: "raw" });
    assert.equal(await findDifference(kept, copy), undefined, `disk ${disk.name}`);
  }
}

function trackingOf(point: RecoveryPoint): readonly string[] {
  return [...new Set(point.disks.map(({ tracking }) => tracking))];
}

test("fleeced backup: points equal independent copies; a failure and a stop are told, and cost no point", async () => {
  await using world = await createProtectedVm({ dataDisksMiB: [4, 4] });
  const { vm, store } = world;
  const witness = await openFleeceWitness(vm, ["vdb", "vdc"]);
  const { hypervisor } = witness;
  await hypervisor.start(vm.vmId);
  const file = { path: "/data/vdb/file", sizeBytes: 2 * MiB };
  await writeSeededFile(vm.exec, file.path, { seed: 3, sizeBytes: file.sizeBytes });
  await syncGuest(vm.exec);
  const loop = "while :; do head -c 16384 /dev/urandom >/data/vdc/x; sync; done";
  await runInGuest(vm.exec, `setsid sh -c '${loop}' </dev/null >/dev/null 2>&1 & sleep 0.2`);

  const first = await world.backUpFleeced(hypervisor);
  assert.deepEqual(trackingOf(first.manifest), ["full"]);
  await assertIsWitnessed(world, witness, first.manifest);

  await writeRandomPages(vm.exec, file.path, { pages: 40, seed: 5 });
  await syncGuest(vm.exec);
  store.limitSpace(0);
  await rejectsWith(world.backUpFleeced(hypervisor), "StoreNoSpace");
  store.limitSpace(Infinity);

  await writeRandomPages(vm.exec, file.path, { pages: 40, seed: 6 });
  await syncGuest(vm.exec);
  const second = await world.backUpFleeced(hypervisor);
  assert.deepEqual(trackingOf(second.manifest), ["dirty-bitmap"]);
  await assertIsWitnessed(world, witness, second.manifest);
  const vdb = second.manifest.disks.find(({ name }) => name === "vdb");
  assert.ok((vdb?.changedBytes ?? 0) > 0 && (vdb?.changedBytes ?? 0) < 2 * MiB);

  await vm.cutPower();
  await hypervisor.start(vm.vmId);
  const third = await world.backUpFleeced(hypervisor);
  assert.deepEqual(trackingOf(third.manifest), ["checksum"]);
  for (const { trackingReason } of third.manifest.disks)
    assert.match(trackingReason ?? "", /stopped/);
  await assertIsWitnessed(world, witness, third.manifest);
  assert.deepEqual(await vm.layerFiles(), [], "no layer was made");
});

/** The first monitor, as the driver speaks to it. */
async function openMonitor(vm: DrivenVm): Promise<QmpMonitor> {
  const description = parseVmDescription(
    JSON.stringify(vm.lab.description),
    vm.lab.descriptionPath,
  );
  const context = planVmContext(description, {
    stateDirectory: vm.stateDirectory,
    clock: systemClock,
    accelerator: "detect",
    onStep: () => Promise.resolve(),
  });
  return new QmpMonitor(context, await QmpClient.open(vm.paths.qmpSocket));
}

test("fleecing: copies that find no room give up the instant; the guest's writes go on", async () => {
  await using vm = await createDrivenVm({ rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  const fill = "dd if=/dev/urandom of=/data/vdb/fill bs=1M count=24 conv=notrunc,fsync 2>/dev/null";
  await runInGuest(vm.exec, fill);
  await using monitor = await openMonitor(vm);
  const found = (await findDisks(monitor, ["vdb"])).get("vdb");
  assert.ok(found !== undefined);
  const path = join(vm.lab.directory, "small.kluis-fleece");
  const limitBytes = 4 * MiB;
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, String(found.sizeBytes)]);
  await truncate(path, limitBytes);
  const disk = { name: "vdb", devicePath: found.devicePath, node: found.node, path };
  await attachFleece(monitor, [{ ...disk, found, limitBytes }], "small");
  await takeFleeceInstant(monitor, [disk]);
  const socketPath = join(vm.runDirectory, "fleece.sock");
  await exportFleece(monitor, [disk]);
  await using reader = await openFleecedDisk({ socketPath, disk, signal: undefined });
  await reader.read(0, Buffer.alloc(MiB));
  await runInGuest(vm.exec, `${fill} && sha256sum /data/vdb/fill`);
  await rejectsWith(reader.read(0, Buffer.alloc(MiB)), "DiskReadFailed");
  await endExports(monitor, [disk], systemClock);
  assert.ok(!existsSync(socketPath), "the server is gone");
  const others = { type: "unix", data: { path: join(vm.runDirectory, "others.sock") } };
  await monitor.execute("nbd-server-start", { addr: others });
  await rejectsWith(exportFleece(monitor, [disk]), "QmpFailed");
  await endExports(monitor, [disk], systemClock);
  assert.ok(existsSync(others.data.path), "somebody else's server goes on");
  await monitor.execute("nbd-server-stop");
  await detachFleece(monitor, [disk]);
  await runInGuest(vm.exec, `${fill} && sync`);
});

test("fleecing: a layer that somebody else adds below the filters stays, and the guest writes to it", async () => {
  await using vm = await createDrivenVm({ rawDisk: "vdb" });
  await vm.hypervisor.start(vm.vmId);
  const write = (name: string): string =>
    `dd if=/dev/urandom of=/data/vdb/${name} bs=1M count=4 conv=fsync 2>/dev/null && sha256sum /data/vdb/${name}`;
  const before = await runInGuest(vm.exec, write("before"));
  await using monitor = await openMonitor(vm);
  const found = (await findDisks(monitor, ["vdb"])).get("vdb");
  assert.ok(found !== undefined);
  const path = join(vm.lab.directory, "other.kluis-fleece");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, String(found.sizeBytes)]);
  await truncate(path, 64 * MiB);
  const disk = { name: "vdb", devicePath: found.devicePath, node: found.node, path };
  await attachFleece(monitor, [{ ...disk, found, limitBytes: 64 * MiB }], "other");
  await takeFleeceInstant(monitor, [disk]);

  const layer = join(vm.lab.directory, "other.qcow2");
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", layer, String(found.sizeBytes)]);
  const file = { driver: "file", filename: layer };
  await monitor.execute("blockdev-add", {
    driver: "qcow2",
    "node-name": "other",
    file,
    backing: null,
  });
  await monitor.execute("blockdev-snapshot", { node: found.node, overlay: "other" });
  const during = await runInGuest(vm.exec, write("during"));

  await detachFleece(monitor, [disk]);
  await detachFleece(monitor, [disk]);
  assert.equal((await findDisks(monitor, ["vdb"])).get("vdb")?.node, "other");
  const after = await runInGuest(vm.exec, write("after"));
  const nodes = await monitor.execute("query-named-block-nodes", { flat: true });
  assert.doesNotMatch(JSON.stringify(nodes), /"node-name":"kluis-/);
  const read = "echo 3 >/proc/sys/vm/drop_caches; cd /data/vdb && sha256sum before during after";
  const sums = (text: string): readonly string[] => text.match(/[0-9a-f]{64}/g) ?? [];
  assert.deepEqual(sums(await runInGuest(vm.exec, read)), sums(before + during + after));
});
