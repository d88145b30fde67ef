/**
 * Goal: a disk that is a block device is backed up with layers in a pool of files that the user names
 * once, refused where he names none, never believed where it may have been written below its layers,
 * and the same device again after a detach, also one that was killed. Method: loop devices as disks of
 * real domains; a device that is taken away and brought back stands for a host that was started anew.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, realpath, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { BackupOutput } from "#contract/cli-output.ts";
import { systemClock } from "#base/clock.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { parseDomain } from "#drivers/libvirt/domain-xml.ts";
import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { SnapshotRequest, VmSnapshot } from "#ports/hypervisor.ts";
import { fromSnapshotDisks } from "#protect/restore.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import { fromSnapshot } from "#protect/vm-points.ts";
import { sliceOf } from "#testing/slice.ts";
import { diskOf, hashDevices, hashReader } from "#testing/suites/hypervisor-fixture.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { assertFailure, createWorld } from "../e2e/cli.ts";
import { openLoopDevice } from "../../lab/loop-device.ts";
import { ChildRun } from "./child-run.ts";
import { createLayerPool, libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const deviceBytes = libvirtDevicesMiB[0] * 1024 * 1024;
/** No sample of a disk of that size lies here. */
const unsampledBytes = 1_000_000;
const isLong = process.env["KLUIS_LONG"] === "1";
/** What follows each: overlays exist; record and XML name them; the instant is taken. */
const snapshotSteps = ["created", "switched", "taken"] as const;
const detachSteps = ["detach-marked", "detach-pending", "detach-recorded"] as const;
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

/** How Kluis reaches a domain. */
function optionsOf({ host, directory }: LibvirtVm) {
  const { uri, configDirectory } = host;
  return { uri, configDirectory, stateDirectory: join(directory, "state") };
}

function openKluis(vm: LibvirtVm, layerPool?: string): Promise<LibvirtHypervisor> {
  const pool = layerPool === undefined ? {} : { layerPool };
  return openLibvirtHypervisor({ ...optionsOf(vm), ...pool });
}

function rejectsAs(work: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(isKluisError(error, code), String(error));
    assert.match(error.message, words);
    return true;
  });
}

function readXml({ host, uuid }: LibvirtVm): Promise<string> {
  return host.virsh.run(["dumpxml", "--inactive", uuid]);
}

/** libvirt puts controllers into another order when XML is defined again. */
function toLines(xml: string): readonly string[] {
  return xml.split("\n").toSorted();
}

/** Writes to the device as another program of the host does. */
async function writeBehind(path: string, offsetBytes: number): Promise<void> {
  const file = await open(path, "r+");
  await file.write(Buffer.from("x"), 0, 1, offsetBytes);
  await file.sync();
  await file.close();
}

/** Ends the machine at once. */
async function stop({ host, uuid }: LibvirtVm): Promise<void> {
  await host.virsh.run(["destroy", uuid]);
}

async function writeNote(vm: LibvirtVm, note: string): Promise<void> {
  await runInGuest(vm.exec, 'echo "$1" >/data/vdb/n; sync', [note]);
}

async function readNote(vm: LibvirtVm): Promise<string> {
  return (await runInGuest(vm.exec, "cat /data/vdb/n")).trim();
}

test("libvirt devices: without a pool for its layers a device is refused, with what to do", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  const { host, uuid } = vm;
  const xml = await readXml(vm);
  const none = await openKluis(vm);
  await rejectsAs(none.takeSnapshot(uuid, crash), "SnapshotFailed", /disk "vdb": .*--layer-pool/);
  assert.deepEqual(
    (await none.get(uuid)).disks.map((disk) => disk.name),
    ["vda", "vdc"],
  );
  const wrong = await openKluis(vm, "nowhere");
  await rejectsAs(wrong.takeSnapshot(uuid, crash), "SnapshotFailed", /"nowhere".*no such pool/);
  await host.virsh.run(["pool-define-as", "idle", "dir", "--target", vm.directory]);
  await using idle = new AsyncDisposableStack();
  idle.defer(async () => {
    await host.virsh.run(["pool-undefine", "idle"]);
  });
  const stopped = await openKluis(vm, "idle");
  await rejectsAs(stopped.takeSnapshot(uuid, crash), "SnapshotFailed", /"idle".*not started/);
  assert.equal(await readXml(vm), xml);
  const without = await none.takeSnapshot(uuid, { ...crash, disks: { exclude: ["vdb"] } });
  assert.deepEqual(
    without.disks.map((disk) => disk.name),
    ["vda", "vdc"],
  );
  await none.detach(uuid);
});

test("libvirt devices: layers lie in the pool, the record knows them, and the device comes back", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  await using pool = await createLayerPool(vm);
  const { host, uuid } = vm;
  const { path } = vm.device("vdb");
  const xml = await readXml(vm);
  const first = await openKluis(vm, pool.name);
  await first.start(uuid);
  await writeNote(vm, "1");
  const base = await first.takeSnapshot(uuid, crash);
  const layer = join(pool.directory, `${uuid}-vdb.kluis-1.qcow2`);
  const info = JSON.parse(
    execFileSync("qemu-img", ["info", "-U", "--output=json", layer], { encoding: "utf8" }),
  ) as Readonly<Record<string, unknown>>;
  assert.deepEqual([info["backing-filename"], info["cluster-size"]], [path, 128 * 1024]);
  assert.match(JSON.stringify(info), /"extended-l2":true/);
  // Named once: the record keeps the place.
  const kluis = await openKluis(vm);
  const space = (await kluis.readSpace(uuid)).find((disk) => disk.name === "vdb");
  assert.deepEqual([space?.folder, space?.layers], [pool.directory, 2]);
  assert.ok((space?.allocatedBytes ?? 0) >= deviceBytes);
  await writeNote(vm, "2");
  const next = await kluis.takeSnapshot(uuid, crash);
  const changes = await diskOf(next, "vdb").changesSince(base.id);
  assert.ok(changes.known && changes.extents.length > 0);
  await stop(vm);
  // Whoever starts the VM.
  await host.virsh.run(["start", uuid]);
  assert.equal(await readNote(vm), "2");
  await writeNote(vm, "3");
  await kluis.releaseSnapshots(uuid, new Set([base.id]));
  const live = parseDomain(await host.virsh.run(["dumpxml", uuid]));
  const chain = live.disks.find((disk) => disk.name === "vdb")?.chain;
  assert.deepEqual([chain?.at(0)?.startsWith(pool.directory), chain?.at(-1)], [true, path]);
  await kluis.detach(uuid);
  assert.deepEqual(await readdir(pool.directory), []);
  assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
  assert.match(await host.virsh.run(["domblklist", uuid]), new RegExp(`vdb +${path}\n`));
  await stop(vm);
  await kluis.start(uuid);
  assert.equal(await readNote(vm), "3");
  // Another place may be named while there are no layers.
  await using other = await createLayerPool(vm, "other-layers");
  await (await openKluis(vm, other.name)).takeSnapshot(uuid, crash);
  assert.equal((await readdir(other.directory)).length, 1);
  await (await openKluis(vm, pool.name)).takeSnapshot(uuid, crash);
  assert.deepEqual(
    [(await readdir(other.directory)).length, await readdir(pool.directory)],
    [2, []],
  );
  await stop(vm);
  await kluis.detach(uuid);
  assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
});

test("libvirt devices: a device that was written below its layers stops everything", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  await using pool = await createLayerPool(vm);
  const { uuid } = vm;
  const { path } = vm.device("vdb");
  const kluis = await openKluis(vm, pool.name);
  const snapshot = await kluis.takeSnapshot(uuid, crash);
  await writeBehind(path, unsampledBytes);
  const words = /it was written behind the layer above it/;
  await rejectsAs(kluis.takeSnapshot(uuid, crash), "SnapshotBaseChanged", words);
  await rejectsAs(kluis.start(uuid), "SnapshotBaseChanged", words);
  await rejectsAs(diskOf(snapshot, "vdb").open(), "SnapshotBaseChanged", words);
});

test("libvirt devices: changes over a time in which nobody watched the device are not known", async () => {
  await using fixture = await openLibvirtFixture(vms, { vdb: "device" });
  const { vm, hypervisor, vmId } = fixture;
  const device = vm.device("vdb");
  await hypervisor.start(vmId);
  await fixture.run("echo one | dd of=/dev/vdb bs=4096 seek=3 conv=notrunc,fsync");
  const before = await hypervisor.takeSnapshot(vmId, crash);
  await fixture.run("echo two | dd of=/dev/vdb bs=4096 seek=5 conv=notrunc,fsync");
  const atGap = await hypervisor.takeSnapshot(vmId, crash);
  await stop(vm);
  await device.reattach();
  const unknown = async (snapshot: VmSnapshot, baseId: string): Promise<void> => {
    const answer = await diskOf(snapshot, "vdb").changesSince(baseId);
    assert.ok(!answer.known && /may have been written/.test(answer.reason));
    assert.ok((await diskOf(snapshot, "vdc").changesSince(baseId)).known);
  };
  // Of the point that is still to be sent, before anything has put the VM in order.
  await unknown(atGap, before.id);
  // In a page that no layer holds and no sample looks at.
  await writeBehind(device.path, unsampledBytes);
  await hypervisor.start(vmId);
  const behind = await hypervisor.takeSnapshot(vmId, crash);
  for (const base of [before, atGap]) await unknown(behind, base.id);
  const [hash] = await hashDevices(fixture);
  await using reader = await diskOf(behind, "vdb").open();
  assert.equal(await hashReader(reader), hash);
  const next = await hypervisor.takeSnapshot(vmId, crash);
  const changes = await diskOf(next, "vdb").changesSince(behind.id);
  assert.ok(changes.known);
  assert.deepEqual(changes.extents, []);
});

test("libvirt devices: disk and device have one size, or no snapshot is taken", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  await using pool = await createLayerPool(vm);
  const { host, uuid, directory } = vm;
  const { path } = vm.device("vdb");
  const grow = async (sizeBytes: number): Promise<void> => {
    await truncate(join(directory, "vdb.raw"), sizeBytes);
    execFileSync("losetup", ["-c", path]);
  };
  const kluis = await openKluis(vm, pool.name);
  await kluis.start(uuid);
  await grow(2 * deviceBytes);
  const words = /disk "vdb" has 2097152 bytes for the VM, and its device .* 4194304/;
  await rejectsAs(kluis.takeSnapshot(uuid, crash), "SnapshotFailed", words);
  assert.deepEqual(await readdir(pool.directory), []);
  await host.virsh.run(["blockresize", uuid, "vdb", `${String(2 * deviceBytes)}b`]);
  const snapshot = await kluis.takeSnapshot(uuid, crash);
  assert.equal(diskOf(snapshot, "vdb").sizeBytes, 2 * deviceBytes);
  await grow(3 * deviceBytes);
  const changed = /has 6291456 bytes and had 4194304 .*give it that size again/;
  await rejectsAs(kluis.takeSnapshot(uuid, crash), "SnapshotBaseChanged", changed);
  await grow(2 * deviceBytes);
  await kluis.takeSnapshot(uuid, crash);
  await host.virsh.run(["blockresize", uuid, "vdb", `${String(3 * deviceBytes)}b`]);
  await rejectsAs(kluis.takeSnapshot(uuid, crash), "SnapshotFailed", /6291456 bytes for the VM/);
});

test("libvirt devices: a stopped VM's device that somebody else uses is left alone", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  await using pool = await createLayerPool(vm);
  const { uuid, directory } = vm;
  const { path } = vm.device("vdb");
  const kluis = await openKluis(vm, pool.name);
  const writer = await open(path, "r+");
  const words = new RegExp(`process ${String(process.pid)} writes`);
  await rejectsAs(kluis.takeSnapshot(uuid, crash), "ImageInUse", words);
  await writer.close();
  const place = join(directory, "mounted");
  await mkdir(place);
  execFileSync("mount", ["-o", "ro", path, place]);
  try {
    await rejectsAs(kluis.takeSnapshot(uuid, crash), "ImageInUse", /mounted or claimed/);
  } finally {
    execFileSync("umount", [place]);
  }
  await kluis.takeSnapshot(uuid, crash);
});

test("libvirt devices: a Kluis that was killed leaves nothing that the next one does not find", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" } });
  await using pool = await createLayerPool(vm);
  const { uuid } = vm;
  const xml = await readXml(vm);
  const kluis = await openKluis(vm);
  await vm.host.virsh.run(["start", uuid]);
  let round = 0;
  const killAt = async (kind: "snapshot" | "detach", waitAt: VmStep): Promise<void> => {
    const operation = kind === "detach" ? { kind } : { kind, request: crash };
    const options = { ...optionsOf(vm), layerPool: pool.name };
    await using child = ChildRun.start({ options, vmId: uuid, operation, waitAt });
    await child.waitForStep(waitAt);
    await child.kill();
    round += 1;
    await writeNote(vm, String(round));
  };
  for (const step of isLong ? snapshotSteps : sliceOf(["created", "taken"] as const, 1)) {
    await killAt("snapshot", step);
    const snapshot = await kluis.takeSnapshot(uuid, crash);
    const next = await kluis.takeSnapshot(uuid, crash);
    const answer = await diskOf(next, "vdb").changesSince(snapshot.id);
    assert.ok(answer.known, answer.known ? "" : `${step}: ${answer.reason}`);
    const ids = (await kluis.listSnapshots(uuid)).map(({ id }) => id);
    await kluis.releaseSnapshots(uuid, new Set(ids));
    assert.equal(await readNote(vm), String(round));
  }
  for (const step of isLong ? detachSteps : (["detach-pending"] as const)) {
    await kluis.takeSnapshot(uuid, crash);
    await killAt("detach", step);
    await kluis.detach(uuid);
    assert.deepEqual(await readdir(pool.directory), []);
    assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
    assert.equal(await readNote(vm), String(round));
  }
  await stop(vm);
  await vm.host.virsh.run(["start", uuid]);
  assert.equal(await readNote(vm), String(round));
});

test("libvirt devices: a point is restored to files, beside the VM whose disk is a device", async () => {
  await using vm = await vms.create({ disks: { vdb: "device" }, start: "cold" });
  await using pool = await createLayerPool(vm);
  const { host, uuid, directory } = vm;
  const kluis = await openKluis(vm, pool.name);
  await kluis.start(uuid);
  await writeNote(vm, "kept");
  const configurations = createDomainConfigurations(host.uri);
  const label = {
    pointId: "20261122t175118043-02adf6cc",
    itemId: "vm:x",
    itemName: "x",
    days: 2,
    vmConfiguration: await configurations.read(uuid),
  };
  const snapshot = await kluis.takeSnapshot(uuid, { ...crash, label });
  const again = parseDomain(await configurations.read(uuid));
  assert.equal(again.disks.find((disk) => disk.name === "vdb")?.isDevice, false);
  const place = join(directory, "restored");
  await mkdir(place);
  const targets = snapshot.disks.map((disk) => ({
    diskName: disk.name,
    place: join(place, `${disk.name}.raw`),
    format: "raw" as const,
  }));
  const wish = { directory: place, targets, configuration: label.vmConfiguration, name: "twin" };
  await restoreVm(fromSnapshot({ ...snapshot, label }), wish, {
    clock: systemClock,
    openDisk: fromSnapshotDisks(snapshot),
    images: imageAccess,
    configurations,
  });
  try {
    const twin = parseDomain(await host.virsh.run(["dumpxml", "twin"]));
    const disk = twin.disks.find((each) => each.name === "vdb");
    assert.deepEqual([disk?.path, disk?.isDevice], [join(place, "vdb.raw"), false]);
    await host.virsh.run(["destroy", uuid]);
    await host.virsh.run(["start", "twin"]);
  } finally {
    await host.virsh.run(["destroy", "twin"]);
    await host.virsh.run(["undefine", "twin"]);
  }
  const image = join(place, "vdb.raw");
  const note = execFileSync("debugfs", ["-R", "cat /n", image], {
    encoding: "utf8",
    stdio: "pipe",
  });
  assert.equal(note, "kept\n");
});

test("libvirt devices: the commands refuse, back up, compare what nobody watched, and restore that", async () => {
  await using fixture = await openLibvirtFixture(vms, { vdb: "device" });
  await using world = await createWorld();
  const { vm, vmId, pool } = fixture;
  const { virsh } = vm.host;
  const place = ["--connect", vm.host.uri, "--state", join(vm.directory, "commands")];
  const words = ["vm", "backup", vmId, ...place, ...world.vault];
  const back = (...more: readonly string[]): Promise<BackupOutput> =>
    world.json([...words, ...more]);
  const vdbOf = ({ point }: BackupOutput) => point.disks.find((disk) => disk.name === "vdb");
  await virsh.run(["start", vmId]);
  assertFailure(await world.run(words), "SnapshotFailed", /disk "vdb": .*--layer-pool POOL/);
  assert.equal(vdbOf(await back("--layer-pool", pool?.name ?? ""))?.tracking, "full");
  await fixture.run("echo two | dd of=/dev/vdb bs=4096 seek=5 conv=notrunc,fsync");
  assert.equal(vdbOf(await back())?.tracking, "snapshot-difference");
  await stop(vm);
  await vm.device("vdb").reattach();
  await writeBehind(vm.device("vdb").path, unsampledBytes);
  await virsh.run(["start", vmId]);
  const [hash] = await hashDevices(fixture);
  const compared = await back();
  assert.equal(vdbOf(compared)?.tracking, "checksum");
  assert.match(vdbOf(compared)?.trackingReason ?? "", /may have been written/);
  const others = compared.point.disks.filter((disk) => disk.name !== "vdb");
  assert.ok(others.every((disk) => disk.tracking === "snapshot-difference"));
  const folder = join(vm.directory, "restored");
  await mkdir(folder);
  const target = ["--directory", folder, "--name", "twin", "--target-format", "raw"];
  await world.ok(["vm", "restore", vmId, ...place, ...world.vault, "--tier", "vault", ...target]);
  await virsh.run(["undefine", "twin"]);
  const restored = await readFile(join(folder, "vdb.raw"));
  assert.equal(createHash("sha256").update(restored).digest("hex"), hash);
  assert.equal(vdbOf(await back())?.tracking, "snapshot-difference");
  await world.ok(["vm", "detach", vmId, ...place]);
});

test("libvirt devices: a volume of a pool of devices has layers, and is a volume again", async () => {
  await using owned = new AsyncDisposableStack();
  const folder = owned.use(await createTempFolder());
  const file = join(folder.path, "whole.raw");
  await writeFile(file, planPartitioned(4 * deviceBytes));
  const whole = await realpath(owned.use(await openLoopDevice(file, `${file}.device`)).path);
  execFileSync("addpart", [whole, "1", "2048", String(deviceBytes / 512)]);
  owned.defer(() => {
    execFileSync("delpart", [whole, "1"]);
  });
  const volume = `${whole.slice("/dev/".length)}p1`;
  const source = `<source pool='devices' volume='${volume}'/>`;
  await using vm = await vms.create({
    disks: { vdb: "raw" },
    planXml: (xml, directory) => {
      execFileSync("dd", [`if=${join(directory, "vdb.raw")}`, `of=/dev/${volume}`, "conv=fsync"], {
        stdio: "pipe",
      });
      return xml.replace(
        /<disk type='file'([^>]*)>((?:(?!<\/disk>)[^])*)<source file='[^']*vdb.raw'\/>/,
        (_, rest: string, driver: string) => `<disk type='volume'${rest}>${driver}${source}`,
      );
    },
  });
  const { host, uuid } = vm;
  const xml = await readXml(vm);
  const disk = ["disk", "--source-dev", whole, "--source-format", "dos", "--target", "/dev"];
  await host.virsh.run(["pool-create-as", "devices", ...disk]);
  owned.defer(async () => {
    await host.virsh.run(["pool-destroy", "devices"]);
  });
  await using pool = await createLayerPool(vm);
  const wrong = await openKluis(vm, "devices");
  const words = /"devices" of --layer-pool: it is of type "disk"/;
  await rejectsAs(wrong.takeSnapshot(uuid, crash), "SnapshotFailed", words);
  const kluis = await openKluis(vm, pool.name);
  const described = (await kluis.get(uuid)).disks.find((each) => each.name === "vdb");
  assert.deepEqual([described?.path, described?.pool], [`/dev/${volume}`, "devices"]);
  await kluis.start(uuid);
  const base = await kluis.takeSnapshot(uuid, crash);
  await writeNote(vm, "1");
  const next = await kluis.takeSnapshot(uuid, crash);
  assert.ok(!(await readXml(vm)).includes("type='volume'"));
  // Nobody counts what is written to the whole disk.
  const answer = await diskOf(next, "vdb").changesSince(base.id);
  assert.ok(!answer.known && /may have been written/.test(answer.reason));
  await kluis.detach(uuid);
  assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
  assert.equal(await readNote(vm), "1");
});

/** A disk with one partition, from 1 MiB on and as large as the lab's device. */
function planPartitioned(sizeBytes: number): Uint8Array {
  const disk = Buffer.alloc(sizeBytes);
  const entry = 446;
  disk[entry + 4] = 0x83;
  disk.writeUInt32LE(2048, entry + 8);
  disk.writeUInt32LE(deviceBytes / 512, entry + 12);
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}
