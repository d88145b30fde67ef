/**
 * Goal: where layers could not be merged later, or somebody else has a job on the VM, none is made
 * and the VM is left alone. Method: a base that nobody may write (as under AppArmor) below a running
 * domain; a copy of a disk and a backup that libvirt was asked for.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());

test("libvirt limits: no layer is made where the base cannot be written later", async () => {
  await using vm = await vms.create();
  const { host, uuid, directory } = vm;
  const hypervisor = await openLibvirtHypervisor({
    uri: host.uri,
    stateDirectory: join(directory, "state"),
    configDirectory: host.configDirectory,
  });
  await hypervisor.start(uuid);
  const xml = await host.virsh.run(["dumpxml", "--inactive", uuid]);
  const base = vm.diskPath("vdb");
  execFileSync("chattr", ["+i", base]);
  try {
    await assert.rejects(hypervisor.takeSnapshot(uuid, crash), (error) => {
      assert.ok(isKluisError(error, "SnapshotFailed"), String(error));
      assert.match(error.message, /could not be merged on this host later: disk "vdb"/);
      return true;
    });
  } finally {
    execFileSync("chattr", ["-i", base]);
  }
  assert.equal(await host.virsh.run(["dumpxml", "--inactive", uuid]), xml);
  assert.deepEqual(
    (await readdir(directory)).filter((name) => name.includes(".kluis-")),
    [],
  );
  const { id } = await hypervisor.takeSnapshot(uuid, crash);
  assert.deepEqual(
    (await hypervisor.listSnapshots(uuid)).map((each) => each.id),
    [id],
  );
  const refuse = (words: RegExp): Promise<void> =>
    assert.rejects(hypervisor.takeSnapshot(uuid, crash), (error) => {
      assert.ok(isKluisError(error, "Busy"), String(error));
      assert.match(error.message, words);
      return true;
    });
  const copy = join(directory, "copy.qcow2");
  await host.virsh.run(["blockcopy", uuid, "vdb", copy, "--transient-job", "--format", "qcow2"]);
  await refuse(/block job on disk "vdb"/);
  await host.virsh.run(["blockjob", uuid, "vdb", "--abort"]);
  const server = `<server transport='unix' socket='${join(directory, "nbd.sock")}'/>`;
  const scratch = `<disk name='vdb' type='file'><scratch file='${join(directory, "scratch")}'/></disk>`;
  const others = "<disk name='vda' backup='no'/><disk name='vdc' backup='no'/>";
  const plan = `<domainbackup mode='pull'>${server}<disks>${scratch}${others}</disks></domainbackup>`;
  await host.virsh.run(["backup-begin", uuid, VIRSH_XML], { xml: plan });
  await refuse(/a job of another program on the VM \(Backup\)/);
  await host.virsh.run(["domjobabort", uuid]);
  await hypervisor.takeSnapshot(uuid, crash);
});
