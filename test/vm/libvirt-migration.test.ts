/**
 * Goal: what an administrator's other tools do to a VM that has layers (move its storage or the VM itself,
 * take and merge snapshots of their own, run jobs on its disks, save and restore it) never harms the
 * guest's data, a recovery point, or what those tools left. Kluis goes on by checksum for the disk
 * concerned, with the reason, or refuses and says what to do. Method: virsh and qemu-img as an
 * administrator uses them, between and during backups of a real domain; each point is read back from
 * the vault and compared with what the guest saw. Two libvirts on one machine stand for two hosts.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cp, mkdir, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { parseDomain } from "#drivers/libvirt/domain-xml.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import type { Hypervisor, SnapshotRequest } from "#ports/hypervisor.ts";
import { backupVm, toVmItemId } from "#protect/backup-vm.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { sliceOf } from "#testing/slice.ts";
import { diskOf, hashDevices, hashReader, PAGE } from "#testing/suites/hypervisor-fixture.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import { openLibvirtHost, type LibvirtLab } from "../../lab/libvirt-host.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { libvirtDevicesMiB, openLibvirtFixture, type LibvirtFixture } from "./libvirt-fixture.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
/** A migration under emulation. */
const migrationTimeoutMs = 120_000;
const livesInSlice = 1;
const names = ["vda", "vdb", "vdc"];
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

/** A VM with a recovery point; it runs. */
interface World {
  readonly fixture: LibvirtFixture;
  readonly vault: Vault;
  /** How Kluis reaches the VM now. */
  way: Way;
  readonly vmId: string;
  readonly directory: string;
  /** Runs a command of the administrator. */
  readonly virsh: (...args: readonly string[]) => Promise<string>;
}

/** A libvirt, and Kluis there. */
interface Way {
  readonly kluis: Hypervisor;
  readonly uri: string;
}

async function openWorld(owned: AsyncDisposableStack): Promise<World> {
  const fixture = owned.use(await openLibvirtFixture(vms));
  const vault = owned.use(await openTestVault({ workers: 2 }));
  const { hypervisor: kluis, vmId, vm } = fixture;
  const virsh = (...args: readonly string[]): Promise<string> => vm.host.virsh.run(args);
  const way = { kluis, uri: vm.host.uri };
  const world = { fixture, vault, way, vmId, directory: vm.directory, virsh };
  await kluis.start(vmId);
  seen = undefined;
  await backUp(world, names, "full");
  return world;
}

async function runJob(world: World, way: Way = world.way): Promise<RecoveryPoint> {
  const { vmId, vault } = world;
  const { kluis, uri } = way;
  const space = { firstFreePercent: 0, reserveBytes: 0 };
  const { transfer } = await backupVm(
    { vmId, itemId: toVmItemId(vmId), ...crash, days: 2, space },
    {
      clock: systemClock,
      random: systemRandom,
      hypervisor: kluis,
      configurations: createDomainConfigurations(uri),
      openVault: () => Promise.resolve(vault),
    },
  );
  if (transfer.status === "Failed") throw transfer.error;
  assert.ok(transfer.status === "Completed", "the transfer has sent the point");
  return transfer.outcome.manifest;
}

let round = 0;
/** What the guest had when it was last looked at. */
let seen: readonly string[] | undefined;

/**
 * Writes a page of its own to both devices, durable on return; returns what the guest has then. Before
 * that it has what it had.
 */
async function write({ fixture }: World): Promise<readonly string[]> {
  round += 1;
  const page = `printf '%-4095s\\n' ${String(round)}`;
  const place = `bs=${String(PAGE)} seek=${String(round % 500)} conv=notrunc,fsync iflag=fullblock`;
  const hash = "sha256sum /dev/vdb /dev/vdc";
  const output = await fixture.run(
    `${hash}; for d in vdb vdc; do ${page} | dd of=/dev/$d ${place} 2>/dev/null; done; ${hash}`,
  );
  const hashes = output.split("\n").map((line) => line.slice(0, 64));
  if (seen !== undefined) assert.deepEqual(hashes.slice(0, 2), seen, "nothing is lost");
  seen = hashes.slice(2, 4);
  return seen;
}

/** What a backup has to do with the disks `others`; all other disks are increments. */
type Method = "checksum" | "full";

/** The guest writes, and a backup has exactly what the guest has then. */
async function backUp(
  world: World,
  others: readonly string[] = [],
  method: Method = "checksum",
): Promise<RecoveryPoint> {
  const hashes = await write(world);
  const point = await runJob(world);
  assertMethods(point, others, method);
  await assertContent(world, point, hashes);
  return point;
}

function assertMethods(point: RecoveryPoint, others: readonly string[], method: Method): void {
  for (const { name, tracking, trackingReason = "" } of point.disks) {
    const isOther = others.includes(name);
    const why = `${name}: ${tracking}: ${trackingReason}`;
    assert.equal(tracking, isOther ? method : "snapshot-difference", why);
    if (isOther && method === "checksum") assert.match(trackingReason, /\S{3}/, why);
  }
}

/** The point in the vault is what the guest had, and its snapshot is the same on all disks. */
async function assertContent(
  { vault, fixture }: World,
  point: RecoveryPoint,
  hashes: readonly string[],
): Promise<void> {
  for (const [at, { disk: name }] of fixture.devices.entries()) {
    const disk = point.disks.find((each) => each.name === name);
    assert.ok(disk !== undefined);
    await using reader = vault.openDisk(disk);
    assert.equal(await hashReader(reader), hashes[at], `${name} of ${point.pointId}`);
  }
}

async function rejectsAs(work: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(isKluisError(error, code), String(error));
    assert.match(error.message, words);
    return true;
  });
}

async function idsOf({ way, vmId }: World): Promise<readonly string[]> {
  return (await way.kluis.listSnapshots(vmId)).map(({ id }) => id);
}

/** What the next start opens, by disk. */
async function namedImages({ virsh, vmId }: World): Promise<ReadonlyMap<string, string>> {
  const { disks } = parseDomain(await virsh("dumpxml", "--inactive", vmId));
  return new Map(disks.map((disk) => [disk.name, disk.path]));
}

async function nameOf(world: World, disk: string): Promise<string> {
  return (await namedImages(world)).get(disk) ?? "";
}

/** Defines the domain with other texts in its XML. */
async function edit({ fixture, vmId }: World, change: (xml: string) => string): Promise<void> {
  const { virsh } = fixture.vm.host;
  const xml = await virsh.run(["dumpxml", "--inactive", vmId]);
  assert.notEqual(change(xml), xml);
  await virsh.run(["define", VIRSH_XML], { xml: change(xml) });
}

/** The guest still has what it had, on the images that the XML names, and each start finds that. */
async function assertLeft(world: World, hashes: readonly string[]): Promise<void> {
  const { fixture, way, vmId } = world;
  await way.kluis.detach(vmId);
  assert.deepEqual(await hashDevices(fixture), hashes);
  await fixture.cutPower();
  for (const [at, device] of fixture.devices.entries()) {
    const raw = join(world.directory, "left.raw");
    execFileSync("qemu-img", ["convert", "-O", "raw", await nameOf(world, device.disk), raw]);
    assert.equal(sha256(raw), hashes[at], device.disk);
  }
}

function sha256(path: string): string {
  return execFileSync("sha256sum", [path], { encoding: "utf8" }).slice(0, 64);
}

/** Disks are copied to another place and used there; of one the layers below stay where they are. */
async function moveStorage(world: World): Promise<void> {
  const { virsh, vmId, directory } = world;
  const { kluis } = world.way;
  const old = await nameOf(world, "vdb");
  const shallowBase = await nameOf(world, "vdc");
  const [kept] = await kluis.listSnapshots(vmId);
  assert.ok(kept !== undefined);
  const before = await hashOf(kept, "vdb");
  for (const [disk, ...how] of [["vdb"], ["vdc", "--shallow"]] as const) {
    const target = join(directory, `${disk}.moved`);
    const done = ["--transient-job", "--wait", "--pivot"];
    await virsh("blockcopy", vmId, disk, "--dest", target, ...how, ...done);
  }
  const compared = await backUp(world, ["vdb", "vdc"]);
  const reason = compared.disks.find(({ name }) => name === "vdb")?.trackingReason ?? "";
  assert.match(reason, /has another image since/);
  await backUp(world);
  assert.equal(await hashOf(kept, "vdb"), before, "an earlier snapshot shows what it showed");
  await kluis.releaseSnapshots(vmId, new Set((await idsOf(world)).slice(0, -1)));
  // The old image is the administrator's, and below the shallow copy it is in use.
  for (const path of [old, shallowBase]) assert.ok((await stat(path)).isFile());
}

async function hashOf(snapshot: Parameters<typeof diskOf>[0], disk: string): Promise<string> {
  await using reader = await diskOf(snapshot, disk).open();
  return await hashReader(reader);
}

/** With the VM off one disk is converted to a new file, another moved with its layers. */
async function moveFiles(world: World): Promise<void> {
  const { fixture, vmId, directory, virsh } = world;
  const hashes = await write(world);
  await fixture.cutPower();
  const [vdb, vdc] = [await nameOf(world, "vdb"), await nameOf(world, "vdc")];
  const folder = join(directory, "elsewhere");
  await mkdir(folder);
  const converted = join(folder, "vdb.qcow2");
  execFileSync("qemu-img", ["convert", "-O", "qcow2", vdb, converted]);
  const stem = vdc.replace(/\.kluis-\d+\.qcow2$/, "");
  const chain = (await readdir(directory)).filter((name) => name.startsWith(basename(stem)));
  const moved = chain.toSorted().map((name) => join(folder, name));
  for (const path of moved) await rename(join(directory, basename(path)), path);
  for (const [at, path] of moved.slice(1).entries()) {
    execFileSync("qemu-img", ["rebase", "-u", "-F", "qcow2", "-b", moved[at] ?? "", path]);
  }
  await edit(world, (xml) => xml.replace(vdb, converted).replace(vdc, moved.at(-1) ?? ""));
  const point = await runJob(world);
  assertMethods(point, ["vdb", "vdc"], "checksum");
  await assertContent(world, point, hashes);
  await virsh("start", vmId);
}

/** A copy that does not end stays another program's, whatever is tried meanwhile. */
async function copyUnderWay(world: World): Promise<void> {
  const { virsh, vmId, directory } = world;
  const { kluis } = world.way;
  await backUp(world);
  const target = join(directory, "copy.qcow2");
  await virsh("blockcopy", vmId, "vdb", "--dest", target, "--transient-job");
  const ids = await idsOf(world);
  const words = /block job on disk "vdb"; wait for its end/;
  await rejectsAs(kluis.releaseSnapshots(vmId, new Set(ids.slice(0, -1))), "Busy", words);
  await rejectsAs(kluis.detach(vmId), "Busy", words);
  await rejectsAs(runJob(world), "Busy", words);
  assert.deepEqual(await idsOf(world), ids);
  assert.match(await virsh("blockjob", vmId, "vdb", "--raw"), /type=Block Copy/);
  await virsh("blockjob", vmId, "vdb", "--abort");
  await backUp(world);
  await kluis.releaseSnapshots(vmId, new Set(ids));
}

/** Another program merges Kluis's own layers: those in between, then all. */
async function mergeLayers(world: World): Promise<void> {
  const { virsh, vmId, fixture, directory } = world;
  const { kluis } = world.way;
  // Two ranges, far apart, so that a slow merge takes two steps.
  const place = "bs=4096 conv=notrunc,fsync";
  await fixture.run(`for at in 1 500; do echo x | dd of=/dev/vdb seek=$at ${place}; done`);
  seen = await hashDevices(fixture);
  await backUp(world);
  const base = join(directory, "vdb.raw");
  const first = `${base}.kluis-1.qcow2`;
  const range = ["--base", base, "--top", first];
  await virsh("blockcommit", vmId, "vdb", ...range, "--bytes", "--bandwidth", "1024");
  const words = /block job on disk "vdb"/;
  await rejectsAs(runJob(world), "Busy", words);
  await rejectsAs(kluis.detach(vmId), "Busy", words);
  await virsh("blockjob", vmId, "vdb", "--bandwidth", "0");
  await waitForNoJob(world);
  await backUp(world, ["vdb"]);
  assert.ok((await stat(first)).isFile(), "what another program left is not removed");
  await write(world);
  // All of them: nobody can tell that from a start of the original as it was before.
  await virsh("blockcommit", vmId, "vdb", "--active", "--wait", "--pivot");
  assert.equal(await nameOf(world, "vdb"), base);
  const hashes = await write(world);
  const advice = /QEMU writes layer 0 of disk "vdb".*has merged what lay above, remove "/;
  const error = await runJob(world).catch((thrown: unknown) => thrown);
  assert.ok(isKluisError(error, "SnapshotBaseChanged"), String(error));
  assert.match(error.message, advice);
  assert.equal(await nameOf(world, "vdb"), base, "the next start is left as it was");
  const [, list = ""] = error.message.split(" remove ");
  for (const [, path = ""] of list.matchAll(/"([^"]+)"/g)) await rm(path);
  assert.deepEqual(await hashDevices(fixture), hashes);
  await backUp(world, ["vdb"]);
}

async function waitForNoJob({ virsh, vmId }: World): Promise<void> {
  while ((await virsh("blockjob", vmId, "vdb", "--raw")).trim() !== "") {
    await systemClock.sleep(100);
  }
}

/** Another program's overlay above Kluis's layer: merged again unseen, seen by a backup, merged after it. */
async function foreignSnapshot(world: World): Promise<void> {
  const { virsh, vmId, directory } = world;
  const { kluis } = world.way;
  const take = async (file: string): Promise<string> => {
    const below = await nameOf(world, "vdb");
    const flags = ["--disk-only", "--no-metadata", "--atomic"];
    const others = ["vda", "vdc"].flatMap((name) => ["--diskspec", `${name},snapshot=no`]);
    const overlay = `vdb,snapshot=external,file=${join(directory, file)}`;
    await virsh("snapshot-create-as", vmId, ...flags, ...others, "--diskspec", overlay);
    return below;
  };
  const merge = (base: string): Promise<string> =>
    virsh("blockcommit", vmId, "vdb", "--active", "--base", base, "--wait", "--pivot");
  const unseen = await take("unseen.qcow2");
  await write(world);
  await merge(unseen);
  await backUp(world);
  const below = await take("seen.qcow2");
  await backUp(world, ["vdb"]);
  await kluis.releaseSnapshots(vmId, new Set((await idsOf(world)).slice(0, -1)));
  assert.ok((await stat(below)).isFile(), "below the overlay it is in use");
  await merge(below);
  await backUp(world, ["vdb"]);
  await take("last.qcow2");
}

/** A snapshot of another program inside Kluis's layers, and going back to it. */
async function innerSnapshot(world: World): Promise<void> {
  const { virsh, vmId, fixture } = world;
  const { kluis } = world.way;
  const hashes = await write(world);
  await virsh("snapshot-create-as", vmId, "inner");
  try {
    await write(world);
    const words = /kluis-\d+\.qcow2" holds snapshots of another program; delete them/;
    await rejectsAs(runJob(world), "SnapshotInUse", words);
    await rejectsAs(kluis.detach(vmId), "SnapshotInUse", words);
    await virsh("snapshot-revert", vmId, "inner");
    assert.deepEqual(await hashDevices(fixture), hashes);
    seen = hashes;
  } finally {
    await virsh("snapshot-delete", vmId, "inner");
  }
  await backUp(world);
}

/** The machine is saved and brought back by others, with backups before, in between and after. */
async function savedStates(world: World): Promise<void> {
  const { virsh, vmId, fixture, directory } = world;
  const hashes = await write(world);
  await virsh("managedsave", vmId);
  const saved = await runJob(world);
  assertMethods(saved, [], "checksum");
  await assertContent(world, saved, hashes);
  await virsh("start", vmId);
  assert.deepEqual(await hashDevices(fixture), hashes);
  const state = join(directory, "state.save");
  // Its XML names what was active when it was saved; a snapshot lies above that since.
  await virsh("save", vmId, state);
  const active = await nameOf(world, "vdb");
  await runJob(world);
  assert.notEqual(await nameOf(world, "vdb"), active);
  await virsh("restore", state);
  await backUp(world, names);
}

/** To another libvirt with the state folder, where one point more is made, and back. */
async function migrate(world: World): Promise<void> {
  const { fixture, vmId, directory, virsh } = world;
  const { kluis } = world.way;
  const { host } = fixture.vm;
  await using owned = new AsyncDisposableStack();
  const capabilities = host.capabilitiesDirectory;
  const hostUuid = "6b6c7569-7300-4000-8000-686f73740002";
  const other = owned.use(await openLibvirtHost({ hostUuid, capabilities }));
  const stateOf = (name: string): string => join(directory, name);
  const open = async (name: string): Promise<Way> => {
    const { uri, configDirectory } = other;
    const stateDirectory = stateOf(name);
    return { uri, kluis: await openLibvirtHypervisor({ uri, configDirectory, stateDirectory }) };
  };
  await backUp(world);
  await sendTo(world, host, other, ["--persistent"]);
  // It is defined here too, and stopped as far as this libvirt knows.
  const elsewhere = /another program writes ".*" although the VM is stopped here/;
  const here = world.way;
  await rejectsAs(runJob(world), "ImageInUse", elsewhere);
  const ids = await idsOf(world);
  await rejectsAs(kluis.releaseSnapshots(vmId, new Set(ids.slice(0, -1))), "ImageInUse", elsewhere);
  await rejectsAs(kluis.detach(vmId), "ImageInUse", elsewhere);
  await rejectsAs(kluis.start(vmId), "ImageInUse", /lock/);
  await reach(world, other);
  await cp(stateOf("state"), stateOf("moved"), { recursive: true });
  world.way = await open("moved");
  await backUp(world);
  // The old state folder does not know the layers made since.
  const unknown = /use the state folder that made it/;
  await rejectsAs(runJob(world, here), "SnapshotBaseChanged", unknown);
  await virsh("undefine", vmId);
  await rejectsAs(runJob(world, here), "VmNotFound", /Cannot find the VM/);
  world.way = await open("fresh");
  await backUp(world, names);
  await sendTo(world, other, host, ["--persistent", "--undefinesource"]);
  await reach(world, host);
  await cp(stateOf("fresh"), stateOf("back"), { recursive: true });
  const { uri, configDirectory } = host;
  const home = { uri, configDirectory, stateDirectory: stateOf("back") };
  world.way = { uri, kluis: await openLibvirtHypervisor(home) };
  await backUp(world);
}

async function sendTo(
  { vmId }: World,
  from: LibvirtLab,
  to: LibvirtLab,
  flags: readonly string[],
): Promise<void> {
  const target = to.uri.replace("qemu:", "qemu+unix:");
  const stream = `unix://${join(to.root, "migration.sock")}`;
  // QEMU removes its sockets when it ends: on this machine those of the other one too.
  const files = { live: join(to.root, "live.xml"), persistent: join(to.root, "persistent.xml") };
  for (const [kind, path] of Object.entries(files)) {
    const how = kind === "live" ? "--migratable" : "--inactive";
    const xml = await from.virsh.run(["dumpxml", how, vmId]);
    await writeFile(path, xml.replace(/[^/']*exec[^/']*\.sock|to-[^/']*\.sock/, socketOf(to)));
  }
  // Of a local file system libvirt cannot tell that both see it.
  const how = ["--live", "--p2p", "--unsafe", ...flags];
  const xml = ["--xml", files.live, "--persistent-xml", files.persistent];
  await from.virsh.run(["migrate", ...how, vmId, target, "--migrateuri", stream, ...xml], {
    timeoutMs: migrationTimeoutMs,
  });
}

/** Leads the tests' own channel to where the VM is now; whoever starts it here takes its socket away. */
async function reach({ directory }: World, at: LibvirtLab): Promise<void> {
  await rm(join(directory, "exec.sock"), { force: true });
  await symlink(socketOf(at), join(directory, "exec.sock"));
}

function socketOf(at: LibvirtLab): string {
  return `to-${basename(at.root)}.sock`;
}

/** What is done one after the other to one VM. */
const lives: readonly (readonly [string, ...((world: World) => Promise<void>)[]])[] = [
  [
    "disks and VMs that were moved are compared once, and left alone here",
    moveStorage,
    moveFiles,
    migrate,
  ],
  [
    "jobs, inner snapshots and saved states of others go on",
    copyUnderWay,
    innerSnapshot,
    savedStates,
  ],
  ["layers that others merge, and overlays of theirs, are compared", mergeLayers, foreignSnapshot],
];

for (const [name, ...steps] of sliceOf(lives, livesInSlice)) {
  test(`libvirt migration: ${name}`, async () => {
    await using owned = new AsyncDisposableStack();
    const world = await openWorld(owned);
    for (const step of steps) await step(world);
    await assertLeft(world, await write(world));
  });
}
