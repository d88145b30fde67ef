/**
 * Goal: disks that libvirt encrypts by LUKS are backed up and restored like others, and nothing of them,
 * nor their passphrase, lies anywhere in the clear. Method: a real domain with a raw LUKS and a qcow2
 * LUKS disk; its guest writes a marker that is looked for in every file; QEMU's own tools read the
 * layers as an independent witness; arguments and environments of all processes are looked at meanwhile.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { imageKeyId } from "#drivers/disk/image-key.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import { toLayerNode } from "#drivers/layers/layer-node.ts";
import { runMonitorCommand } from "#drivers/libvirt/monitor-command.ts";
import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { parseDomain } from "#drivers/libvirt/domain-xml.ts";
import {
  openLibvirtHypervisor,
  type LibvirtHypervisor,
} from "#drivers/libvirt/libvirt-hypervisor.ts";
import { VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import type { FleeceRequest, SnapshotRequest } from "#ports/hypervisor.ts";
import { applyRestore, fromVault, prepareRestore } from "#protect/restore.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import { watchProcesses } from "#testing/process-canary.ts";
import { isInSlice, sliceOf } from "#testing/slice.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import type { Vault } from "#vault/vault.ts";
import { runInGuest, syncGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { ChildRun } from "./child-run.ts";
import { protectVm } from "./protected-vm.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const secretId = "6b6c7569-7300-4000-8000-6c756b730001";
const otherSecretId = "6b6c7569-7300-4000-8000-6c756b730002";
const MiB = 1024 * 1024;
const number = String(createPrng(testSeed()).below(1e9));
const passphrase = `canary-${number}-passphrase`;
/** Written by the guest to its encrypted disks. */
const marker = `canary-${number}-marker`;
/** As raw LUKS, as qcow2; the rest of the data disks stays as it was. */
const encrypted = sliceOf(["vdb", "vdc"] as const, 1);
const others = (["vdb", "vdc"] as const).filter((name) => !encrypted.includes(name));
const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());
const before = await readdir(tmpdir());
await defineSecret(secretId, passphrase);

/** Defines a secret; without a value where none is given. */
async function defineSecret(id: string, value?: string, isPrivate = false): Promise<void> {
  const { virsh } = vms.host;
  const xml = `<secret ephemeral='no' private='${isPrivate ? "yes" : "no"}'><uuid>${id}</uuid></secret>`;
  await virsh.run(["secret-define", VIRSH_XML], { xml });
  if (value !== undefined) await setSecret(id, value);
}

async function setSecret(id: string, value: string): Promise<void> {
  const args = ["secret-set-value", id, "--plain", "--file", VIRSH_XML];
  await vms.host.virsh.run(args, { xml: value });
}

/** Runs a tool of QEMU's, which reads the passphrase from its standard input. */
function runKeyed(tool: string, args: readonly string[]): void {
  const [command = "", ...rest] = tool.split(" ");
  const key = ["--object", `secret,id=${imageKeyId},file=/dev/stdin`];
  for (let tries = 1; ; tries += 1) {
    // Node's pipes are sockets, which cannot be opened by a path.
    const words = ["-c", 'cat | "$@"', "sh", command, ...rest, ...key, ...args];
    const { status, stderr } = spawnSync("/bin/sh", words, { input: passphrase, encoding: "utf8" });
    if (status === 0) return;
    // See runMeasured.
    if (tries === 20 || !stderr.includes("accurate CPU usage")) throw new Error(stderr);
  }
}

/** Encrypts the data disks that the lab has made: vdb as raw LUKS, vdc as qcow2. */
function encryptDisks(xml: string, directory: string): string {
  let sealed = xml;
  for (const name of encrypted) {
    const path = join(directory, `${name}.luks`);
    const plain = join(directory, `${name}.raw`);
    const [format, how, prefix] =
      name === "vdb" ? ["luks", [], ""] : ["qcow2", ["encrypt.format=luks"], "encrypt."];
    const key = [`${prefix}key-secret=${imageKeyId}`, `${prefix}iter-time=10`];
    const options = [...how, ...key].join(",");
    runKeyed("qemu-img convert", ["-f", "raw", "-O", format, "-o", options, plain, path]);
    const secret = `<secret type='passphrase' uuid='${secretId}'/>`;
    const source = `<source file='${path}'><encryption format='luks'>${secret}</encryption></source>`;
    const type = name === "vdb" ? "raw" : "qcow2";
    sealed = sealed.replace(
      new RegExp(`type='raw'([^>]*>)<source file='${plain}'/>`),
      (_, rest: string) => `type='${type}'${rest}${source}`,
    );
  }
  return sealed;
}

async function createEncryptedVm(): Promise<LibvirtVm> {
  const disks = { vdb: "raw", vdc: "raw" } as const;
  const vm = await vms.create({ disks, planXml: encryptDisks });
  for (const name of encrypted) await rm(join(vm.directory, `${name}.raw`));
  return vm;
}

function openKluis({ host, directory }: LibvirtVm): Promise<LibvirtHypervisor> {
  const { uri, configDirectory } = host;
  return openLibvirtHypervisor({ uri, configDirectory, stateDirectory: join(directory, "state") });
}

function readXml({ host, uuid }: LibvirtVm): Promise<string> {
  return host.virsh.run(["dumpxml", "--inactive", uuid]);
}

/** libvirt puts controllers into another order when XML is defined again. */
function toLines(xml: string): readonly string[] {
  return xml.split("\n").toSorted();
}

/** Layers of a disk from the original up, as the persistent XML names them. */
async function readLayers(vm: LibvirtVm, name: string): Promise<readonly DiskLayer[]> {
  const disk = parseDomain(await readXml(vm)).disks.find((each) => each.name === name);
  const chain = (disk?.chain ?? []).toReversed();
  return chain.map((path, at) => {
    const format = at === 0 && name === "vdb" ? "raw" : "qcow2";
    return { number: at, path, format, secretId };
  });
}

/** The disk as QEMU's own tools show it. */
async function readIndependently(vm: LibvirtVm, layers: readonly DiskLayer[]): Promise<Buffer> {
  const copy = join(vm.directory, "..", "independent.raw");
  const top = layers.at(-1) as DiskLayer;
  const node = toLayerNode(top, layers.slice(0, -1));
  try {
    runKeyed("qemu-img convert", ["-O", "raw", node, copy]);
    return await readFile(copy);
  } finally {
    await rm(copy, { force: true });
  }
}

/** That no file below the test's folder, and none of ours elsewhere, holds the marker or the passphrase. */
async function assertNothingInTheClear({ directory }: LibvirtVm): Promise<void> {
  // Those of qemu-nbd that are there now; older ones are of others.
  const all = (await readdir(tmpdir())).filter((name) => /^kluis-[A-Za-z0-9]{6}$/.test(name));
  const temporary = all.filter((name) => !before.includes(name));
  const logs = join(vms.host.root, "log");
  for (const folder of [
    directory,
    logs,
    "/dev/shm",
    ...temporary.map((name) => join(tmpdir(), name)),
  ]) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    for (const entry of entries.filter((each) => each.isFile())) {
      const path = join(entry.parentPath, entry.name);
      const bytes = await readFile(path).catch(() => Buffer.alloc(0));
      for (const text of [marker, passphrase]) assert.ok(!bytes.includes(text), `${path}: ${text}`);
    }
  }
}

function rejectsAs(work: Promise<unknown>, code: ErrorCode, words: RegExp): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(isKluisError(error, code), String(error));
    assert.match(error.message, words);
    return true;
  });
}

/** Writes a note to all data disks, and with the marker to the encrypted ones. */
async function writeNotes(vm: LibvirtVm, note: string): Promise<void> {
  const script = 'for d in vdb vdc; do echo "$1" >/data/$d/note; done';
  await runInGuest(vm.exec, script, [note]);
  for (const name of encrypted) {
    await runInGuest(vm.exec, 'echo "$1 $2" >/data/$3/m-$2', [marker, note, name]);
  }
  await syncGuest(vm.exec);
}

function readNotes(vm: LibvirtVm): Promise<string> {
  return runInGuest(vm.exec, "cat /data/vdb/note /data/vdc/note");
}

/** Writes a disk of a point in the clear, which must be asked for. */
async function readPoint(vm: LibvirtVm, vault: Vault, point: RecoveryPoint, diskName: string) {
  const place = join(vm.directory, "..", "plain.raw");
  const targets = [{ diskName, place, format: "raw" }] as const;
  const request = { targets, overwrite: false };
  const parts = { images: imageAccess, clock: systemClock, openDisk: fromVault(vault, point) };
  await rejectsAs(prepareRestore(point, request, parts), "ArgumentInvalid", /--plaintext/);
  try {
    await applyRestore(
      await prepareRestore(point, { ...request, isPlaintextMeant: true }, parts),
      parts,
    );
    return await readFile(place);
  } finally {
    await rm(place, { force: true });
  }
}

test("libvirt LUKS: backups, increments, restores, expiry and detach of a running VM", async () => {
  await using vm = await createEncryptedVm();
  await using canaries = watchProcesses(passphrase);
  const { host, uuid, directory } = vm;
  const xml = await readXml(vm);
  const hypervisor = await openKluis(vm);
  const configurations = createDomainConfigurations(host.uri);
  await using world = await protectVm({ vmId: uuid, hypervisor, configurations, directory });
  const { vault } = world;
  await hypervisor.start(uuid);
  await writeNotes(vm, "1");
  const first = await world.backUp();
  const sealed = first.manifest.disks.filter(({ isEncrypted }) => isEncrypted === true);
  assert.deepEqual(
    sealed.map(({ name }) => name),
    encrypted,
  );
  await writeNotes(vm, "2");
  const second = await world.backUp();
  for (const disk of second.manifest.disks) {
    assert.equal(
      disk.tracking,
      "snapshot-difference",
      `${disk.name}: ${disk.trackingReason ?? ""}`,
    );
  }
  for (const name of encrypted) {
    const changed = second.manifest.disks.find((disk) => disk.name === name)?.changedBytes ?? 0;
    assert.ok(changed > 0 && changed < MiB / 4, `${String(changed)} bytes of ${name} changed`);
    const layers = await readLayers(vm, name);
    assert.equal(layers.length, 3);
    for (const [at, { manifest }] of [first, second].entries()) {
      const expected = await readIndependently(vm, layers.slice(0, at + 1));
      assert.ok(expected.includes(`${marker} ${String(at + 1)}`), "the guest has written it");
      assert.ok(
        (await readPoint(vm, vault, manifest, name)).equals(expected),
        `${name} ${String(at)}`,
      );
    }
  }
  await assertNothingInTheClear(vm);

  await restoreAsTwin(vm, vault, second.manifest);
  await vm.cutPower();
  await hypervisor.start(uuid);
  assert.equal(await readNotes(vm), "2\n2\n");
  await writeNotes(vm, "3");
  const third = await hypervisor.takeSnapshot(uuid, crash);
  const ids = (await hypervisor.listSnapshots(uuid)).map(({ id }) => id);
  await hypervisor.releaseSnapshots(uuid, new Set(ids.filter((id) => id !== third.id)));
  for (const name of encrypted) assert.equal((await readLayers(vm, name)).length, 2);
  await assertNothingInTheClear(vm);
  await writeNotes(vm, "4");
  await hypervisor.detach(uuid);
  assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
  await vm.cutPower();
  await hypervisor.start(uuid);
  assert.equal(await readNotes(vm), "4\n4\n");
  await hypervisor.takeSnapshot(uuid, { ...crash, disks: { exclude: others } });
  await writeNotes(vm, "5");
  await detachByHand(vm);
  await host.virsh.run(["destroy", uuid]);
  for (const name of encrypted) {
    const layers = await readLayers(vm, name);
    assert.equal(layers.length, 1);
    assert.ok((await readIndependently(vm, layers)).includes(`${marker} 5`), name);
  }
  const files = await readdir(directory);
  assert.deepEqual(
    files.filter((name) => /vd[bc].*\.kluis-/.test(name)),
    [],
  );
  await assertNothingInTheClear(vm);
  assert.ok(canaries.looks > 10, `looked ${String(canaries.looks)} times`);
});

/** Restores the point as another VM, whose disks libvirt can open and nobody else. */
async function restoreAsTwin(vm: LibvirtVm, vault: Vault, point: RecoveryPoint): Promise<void> {
  const { host, directory } = vm;
  const folder = join(directory, "restored");
  await mkdir(folder);
  const formatOf = (name: string): "raw" | "qcow2" => (name === "vdb" ? "raw" : "qcow2");
  const targets = point.disks.map(({ name }) => ({
    diskName: name,
    place: join(folder, `${name}.image`),
    format: formatOf(name),
  }));
  const request = { directory: folder, targets, configuration: point.vmConfiguration ?? "" };
  const parts = {
    images: imageAccess,
    clock: systemClock,
    openDisk: fromVault(vault, point),
    configurations: createDomainConfigurations(host.uri),
  };
  await restoreVm(point, { ...request, name: "twin" }, parts);
  try {
    for (const name of encrypted) {
      const restored = {
        number: 0,
        path: join(folder, `${name}.image`),
        format: formatOf(name),
        secretId,
      };
      const layers = (await readLayers(vm, name)).slice(0, 2);
      const expected = await readIndependently(vm, layers);
      assert.ok((await readIndependently(vm, [restored])).equals(expected), name);
    }
    await host.virsh.run(["start", "twin", "--paused"]);
    await host.virsh.run(["destroy", "twin"]);
  } finally {
    await host.virsh.run(["undefine", "twin"]);
  }
  await assertNothingInTheClear(vm);
  await rm(folder, { recursive: true });
}

/** What docs/guides/leaving.md says of encrypted disks, while the VM runs. */
async function detachByHand(vm: LibvirtVm): Promise<void> {
  const guide = new URL("../../docs/guides/leaving.md", import.meta.url);
  const [, script = ""] =
    /<!-- by-hand-encrypted -->\n\n```sh\n(.*?)```/s.exec(await readFile(guide, "utf8")) ?? [];
  const { host, uuid, directory } = vm;
  for (const name of encrypted) {
    const env = {
      PATH: process.env["PATH"],
      CONNECT: host.uri,
      VM: uuid,
      DISK: name,
      IMAGE: join(directory, `${name}.luks`),
    };
    execFileSync("/bin/sh", ["-c", script], { env, stdio: "ignore" });
  }
}

if (isInSlice(2)) {
  test("libvirt LUKS: layers of a stopped VM merge, and it detaches", async () => {
    await using vm = await createEncryptedVm();
    const { uuid, host } = vm;
    const xml = await readXml(vm);
    await rm(join(host.saveDirectory, "lab.save"), { force: true });
    const hypervisor = await openKluis(vm);
    const ids: string[] = [];
    for (const value of [11, 22, 33]) {
      ids.push((await hypervisor.takeSnapshot(uuid, crash)).id);
      for (const name of encrypted) {
        const layers = await readLayers(vm, name);
        const node = toLayerNode(layers.at(-1) as DiskLayer, layers.slice(0, -1));
        const commands = [
          `write -P ${String(value)} 1M 4k`,
          `write -P ${String(value)} ${String(value)}k 1k`,
        ];
        runKeyed("qemu-io", [...commands.flatMap((each) => ["-c", each]), node]);
      }
    }
    const contents = new Map<string, Buffer>();
    for (const name of encrypted) {
      contents.set(name, await readIndependently(vm, await readLayers(vm, name)));
    }
    await hypervisor.releaseSnapshots(uuid, new Set(ids.slice(0, 2)));
    for (const name of encrypted) {
      const layers = await readLayers(vm, name);
      assert.equal(layers.length, 2);
      assert.ok(
        (await readIndependently(vm, layers)).equals(contents.get(name) ?? Buffer.alloc(0)),
      );
    }
    await hypervisor.detach(uuid);
    assert.deepEqual(toLines(await readXml(vm)), toLines(xml));
    for (const name of encrypted) {
      const layers = await readLayers(vm, name);
      assert.equal(layers.length, 1);
      assert.ok(
        (await readIndependently(vm, layers)).equals(contents.get(name) ?? Buffer.alloc(0)),
      );
    }
  });
}

test("libvirt LUKS: what cannot be encrypted is refused before anything is made, with what to do", async () => {
  await using vm = await createEncryptedVm();
  const { uuid, host, directory } = vm;
  const hypervisor = await openKluis(vm);
  const xml = await readXml(vm);
  const listImages = async (): Promise<readonly string[]> =>
    (await readdir(directory)).filter((name) => name !== "state");
  const files = await listImages();
  await setSecret(secretId, "another passphrase");
  try {
    await rejectsAs(
      hypervisor.takeSnapshot(uuid, crash),
      "DiskKeyUnusable",
      /none of its key slots/,
    );
  } finally {
    await setSecret(secretId, passphrase);
  }
  const request: FleeceRequest = { ...crash, reserveBytes: 0 };
  await rejectsAs(
    hypervisor.takeFleecedSnapshot(uuid, request),
    "VmStateWrong",
    /disk "vd[bc]" is encrypted/,
  );
  const change = async (named: string): Promise<void> => {
    await host.virsh.run(["define", VIRSH_XML], { xml: named });
  };
  const renamed = xml.replaceAll(secretId, otherSecretId);
  await change(renamed);
  const taking = (): Promise<unknown> => hypervisor.takeSnapshot(uuid, crash);
  await rejectsAs(taking(), "DiskKeyUnusable", /no such secret/);
  await defineSecret(otherSecretId);
  await rejectsAs(taking(), "DiskKeyUnusable", /has no value/);
  await host.virsh.run(["secret-undefine", otherSecretId]);
  await defineSecret(otherSecretId, passphrase, true);
  await rejectsAs(taking(), "DiskKeyUnusable", /it is private/);
  const left = await hypervisor.takeSnapshot(uuid, {
    ...crash,
    disks: { exclude: [...encrypted] },
  });
  assert.deepEqual(
    left.disks.map(({ name }) => name),
    ["vda", ...others],
  );
  await hypervisor.detach(uuid);
  await change(xml);
  assert.deepEqual(await listImages(), files);
});

/** Opens the next layers as libvirt does for a snapshot, under the names that it gives next. */
async function openAsLibvirt({ host, uuid, directory }: LibvirtVm): Promise<void> {
  const xml = await host.virsh.run(["dumpxml", uuid]);
  const indexes = [...xml.matchAll(/ index='(\d+)'/g)].map(([, index]) => Number(index));
  const run = (execute: string, args: Record<string, unknown>): Promise<unknown> =>
    runMonitorCommand(host.virsh, uuid, { execute, arguments: args });
  for (const [at, name] of ["vda", "vdb", "vdc"].entries()) {
    const node = `libvirt-${String(1 + at + Math.max(...indexes))}`;
    const isSealed = (encrypted as readonly string[]).includes(name);
    const image = name === "vda" ? "vda.qcow2" : isSealed ? `${name}.luks` : `${name}.raw`;
    const path = join(directory, `${image}.kluis-2.qcow2`);
    const secret = `${node}-format-encryption-secret0`;
    if (isSealed) await run("object-add", { "qom-type": "secret", id: secret, data: passphrase });
    const storage = `${node}-storage`;
    await run("blockdev-add", { driver: "file", "node-name": storage, filename: path });
    await run("blockdev-add", {
      driver: "qcow2",
      "node-name": `${node}-format`,
      file: storage,
      backing: null,
      ...(isSealed ? { encrypt: { format: "luks", "key-secret": secret } } : {}),
    });
  }
}

if (isInSlice(3)) {
  test("libvirt LUKS: a libvirtd that died in a snapshot leaves nothing that stops the next", async () => {
    await using vm = await createEncryptedVm();
    const { host, uuid, directory } = vm;
    const { uri, configDirectory } = host;
    const options = { uri, configDirectory, stateDirectory: join(directory, "state") };
    const hypervisor = await openLibvirtHypervisor(options);
    await hypervisor.start(uuid);
    await hypervisor.takeSnapshot(uuid, crash);
    const operation = { kind: "snapshot", request: crash } as const;
    await using child = ChildRun.start({ options, vmId: uuid, operation, waitAt: "frozen" });
    await child.waitForStep("frozen");
    await openAsLibvirt(vm);
    await child.kill();
    await writeNotes(vm, "1");
    const { id } = await hypervisor.takeSnapshot(uuid, crash);
    assert.equal((await hypervisor.listSnapshots(uuid)).at(-1)?.id, id);
    await vm.cutPower();
    await hypervisor.start(uuid);
    assert.equal(await readNotes(vm), "1\n1\n");
  });
}
