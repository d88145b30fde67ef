/**
 * Goal: a libvirtd that died in a snapshot after it had opened the new layers in QEMU, and before
 * QEMU used them, leaves nothing that stops the next snapshot. Method: Kluis is killed right before
 * the instant; the nodes that libvirt would open next are opened in its place, under its names.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";

import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { runMonitorCommand } from "#drivers/libvirt/monitor-command.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { ChildRun } from "./child-run.ts";

const crash: SnapshotRequest = { consistency: "crash", freezeBudgetMs: 1_000 };
const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());

/** Opens layers as libvirt does for a snapshot, under the names that it gives next. */
async function openAsLibvirt({ host, uuid }: LibvirtVm, paths: readonly string[]): Promise<void> {
  const xml = await host.virsh.run(["dumpxml", uuid]);
  const indexes = [...xml.matchAll(/ index='(\d+)'/g)].map(([, index]) => Number(index));
  for (const [at, path] of paths.entries()) {
    const name = `libvirt-${String(1 + at + Math.max(...indexes))}`;
    const file = { driver: "file", "node-name": `${name}-storage`, filename: path };
    const qcow2 = {
      driver: "qcow2",
      "node-name": `${name}-format`,
      file: file["node-name"],
      backing: null,
    };
    for (const node of [file, qcow2]) {
      await runMonitorCommand(host.virsh, uuid, { execute: "blockdev-add", arguments: node });
    }
  }
}

test("libvirt orphans: what a dead libvirtd left open does not stop the next snapshot", async () => {
  await using vm = await vms.create();
  const { host, uuid, directory } = vm;
  const options = {
    uri: host.uri,
    stateDirectory: join(directory, "state"),
    configDirectory: host.configDirectory,
  };
  const hypervisor = await openLibvirtHypervisor(options);
  await hypervisor.start(uuid);
  await hypervisor.takeSnapshot(uuid, crash);
  const operation = { kind: "snapshot", request: crash } as const;
  await using child = ChildRun.start({ options, vmId: uuid, operation, waitAt: "frozen" });
  await child.waitForStep("frozen");
  await openAsLibvirt(
    vm,
    ["vda", "vdb"].map((name) => `${vm.diskPath(name)}.kluis-2.qcow2`),
  );
  await child.kill();
  await runInGuest(vm.exec, "echo 1 >/data/vdb/n; sync");
  const { id } = await hypervisor.takeSnapshot(uuid, crash);
  assert.equal((await hypervisor.listSnapshots(uuid)).at(-1)?.id, id);
  await vm.cutPower();
  await hypervisor.start(uuid);
  assert.equal(await runInGuest(vm.exec, "cat /data/vdb/n"), "1\n");
});
