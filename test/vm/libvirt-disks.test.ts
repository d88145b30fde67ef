/**
 * Goal: volumes of a pool are protected like image files, and are volumes again after a detach; what
 * a point left out is not in a VM that is restored from it. Method: a folder pool of a real libvirt
 * around the disks of a running domain.
 */
import assert from "node:assert/strict";
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { parseDomain } from "#drivers/libvirt/domain-xml.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const pool = "kluis-pool";
const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());

/** Names a disk of the lab as a volume of the pool. */
function asVolume(xml: string, name: string): string {
  return xml.replace(
    new RegExp(
      `<disk type='file'([^>]*)>((?:(?!</disk>)[^])*)<source file='[^']*/(${name}[^']*)'/>`,
    ),
    (_, rest: string, driver: string, file: string) =>
      `<disk type='volume'${rest}>${driver}<source pool='${pool}' volume='${file}'/>`,
  );
}

/** libvirt puts controllers into another order when XML is defined again. */
function toLines(xml: string): readonly string[] {
  return xml.split("\n").toSorted();
}

test("libvirt disks: a volume of a pool has layers, and is a volume again after a detach", async () => {
  await using vm = await vms.create({
    disks: { vdb: "raw" },
    planXml: (xml) => asVolume(asVolume(xml, "vdb"), "vdc"),
  });
  const { host, uuid, directory } = vm;
  const hypervisor = await openLibvirtHypervisor({
    uri: host.uri,
    stateDirectory: join(directory, "state"),
    configDirectory: host.configDirectory,
  });
  const readXml = (): Promise<string> => host.virsh.run(["dumpxml", "--inactive", uuid]);
  const xml = await readXml();
  assert.equal(xml.match(/type='volume'/g)?.length, 2);
  await assert.rejects(hypervisor.takeSnapshot(uuid, crash), (error) => {
    assert.ok(isKluisError(error, "SnapshotFailed"), String(error));
    assert.match(error.message, /disk "vdb": volume "vdb.raw" of pool "kluis-pool"/);
    return true;
  });
  await host.virsh.run(["pool-create-as", pool, "dir", "--target", directory]);
  try {
    const poolsOf = async (): Promise<readonly (string | undefined)[]> =>
      (await hypervisor.get(uuid)).disks.map((disk) => disk.pool);
    assert.deepEqual(await poolsOf(), [undefined, pool, pool]);
    await hypervisor.start(uuid);
    await runInGuest(vm.exec, "echo 1 >/data/vdb/n; echo 1 >/data/vdc/n; sync");
    const first = await hypervisor.takeSnapshot(uuid, crash);
    await runInGuest(vm.exec, "echo 2 >/data/vdb/n; echo 2 >/data/vdc/n; sync");
    const second = await hypervisor.takeSnapshot(uuid, crash);
    const changes = await second.disks[1]?.changesSince(first.id);
    assert.ok(changes?.known === true && changes.extents.length > 0);
    assert.ok(!(await readXml()).includes("type='volume'"), "the XML names layers");
    assert.deepEqual(await poolsOf(), [undefined, pool, pool]);
    await hypervisor.releaseSnapshots(uuid, new Set([first.id]));
    await vm.cutPower();
    await hypervisor.start(uuid);
    assert.equal(await runInGuest(vm.exec, "cat /data/vdb/n /data/vdc/n"), "2\n2\n");
    await hypervisor.detach(uuid);
    assert.deepEqual(toLines(await readXml()), toLines(xml));
    await vm.cutPower();
    await hypervisor.start(uuid);
    assert.equal(await runInGuest(vm.exec, "cat /data/vdb/n /data/vdc/n"), "2\n2\n");
  } finally {
    await host.virsh.run(["pool-destroy", pool]);
  }
});

test("libvirt disks: a VM restored from a point that left a disk out has no such disk", async () => {
  await using vm = await vms.create({ start: "cold" });
  const { host, uuid, directory } = vm;
  const folder = join(directory, "restored");
  await mkdir(folder);
  const disks = await Promise.all(
    ["vda", "vdc"].map(async (name) => {
      const path = join(folder, `${name}.qcow2`);
      await copyFile(vm.diskPath(name), path);
      return { name, path, format: "qcow2" } as const;
    }),
  );
  const configurations = createDomainConfigurations(host.uri);
  const configuration = await configurations.read(uuid);
  const plan = { configuration, directory: folder, name: "twin", disks };
  await configurations.create(plan);
  try {
    const twin = parseDomain(await host.virsh.run(["dumpxml", "--inactive", "twin"]));
    assert.deepEqual(
      twin.disks.map(({ name, path }) => [name, path]),
      disks.map(({ name, path }) => [name, path]),
    );
    assert.notEqual(twin.uuid, uuid);
  } finally {
    await host.virsh.run(["undefine", "twin"]);
  }
});
