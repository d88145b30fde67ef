/**
 * Goal: whatever address libvirt is reached by, snapshots and a detach work; a VM without an agent's
 * channel gets a crash-consistent snapshot at once, with the reason; a restored VM starts beside the
 * old one with an identity of its own, and in place of it with the old one. Method: one libvirt,
 * reached by a named socket and by TCP.
 */
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import { createDomainConfigurations } from "#drivers/libvirt/domain-configurations.ts";
import { parseDomain } from "#drivers/libvirt/domain-xml.ts";
import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { fromSnapshotDisks } from "#protect/restore.ts";
import { restoreVm } from "#protect/restore-vm.ts";
import { fromSnapshot } from "#protect/vm-points.ts";
import { findFreePort } from "#testing/free-port.ts";
import { testHypervisor } from "#testing/suites/hypervisor-suite.ts";
import { sliceOf } from "#testing/slice.ts";
import { createAgentExec } from "../../lab/agent-exec.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const freeze: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };
const tcpPort = await findFreePort();
const vms = await LibvirtVms.open(libvirtDevicesMiB, { tcpPort });
after(() => vms[Symbol.asyncDispose]());

const { search } = new URL(vms.host.uri);
const uris = [`qemu+unix:///system${search}`, `qemu+tcp://127.0.0.1:${String(tcpPort)}/system`];
for (const uri of sliceOf(uris, 1)) {
  const isTcp = uri.startsWith("qemu+tcp");
  testHypervisor(`libvirt driver by ${isTcp ? "qemu+tcp" : "qemu+unix"}`, {
    open: () => openLibvirtFixture(vms, { uri }),
    rounds: 2,
    writtenZeros: "data",
    ...(isLong ? {} : { part: isTcp ? /detaches a running/ : /freezes the guest/ }),
  });
}

/** The XML with a network card, whose address is one domain's own. */
function withCard(xml: string): string {
  const card = "<interface type='user'><mac address='52:54:00:6b:6c:01'/><model type='virtio'/>";
  return xml.replace("</devices>", `${card}</interface></devices>`);
}

function macOf(xml: string): string | undefined {
  return /<mac address='([^']*)'/.exec(xml)?.[1];
}

async function readXml({ host }: LibvirtVm, name: string): Promise<string> {
  return host.virsh.run(["dumpxml", "--inactive", name]);
}

test("libvirt connections: a VM without an agent's channel says so at once", async () => {
  await using vm = await vms.create({ start: "cold" });
  const { host, uuid, directory } = vm;
  const xml = (await readXml(vm, uuid)).replace(
    /<channel type='unix'>(?:(?!<\/channel>)[^])*org\.qemu\.guest_agent\.0(?:(?!<\/channel>)[^])*<\/channel>/,
    "",
  );
  await host.virsh.run(["define", VIRSH_XML], { xml });
  const { uri, configDirectory } = host;
  const options = { uri, configDirectory, stateDirectory: join(directory, "state") };
  const hypervisor = await openLibvirtHypervisor(options);
  await hypervisor.start(uuid);
  const { consistency } = await hypervisor.takeSnapshot(uuid, freeze);
  assert.equal(consistency.consistency, "crash");
  assert.match(consistency.reason ?? "", /the VM has no channel for a guest agent/);
});

test("libvirt connections: a restored VM starts with a new identity, and with the old one", async () => {
  await using vm = await vms.create({ start: "cold", planXml: withCard });
  const { host, uuid, directory } = vm;
  const { uri, configDirectory, virsh } = host;
  const options = { uri, configDirectory, stateDirectory: join(directory, "state") };
  const hypervisor = await openLibvirtHypervisor(options);
  const configurations = createDomainConfigurations(uri);
  const configuration = await configurations.read(uuid);
  const snapshot = await hypervisor.takeSnapshot(uuid, freeze);
  const restore = async (folder: string, name?: string): Promise<void> => {
    const place = join(directory, folder);
    await mkdir(place);
    const targets = snapshot.disks.map((disk) => ({
      diskName: disk.name,
      place: join(place, `${disk.name}.qcow2`),
      format: "qcow2" as const,
    }));
    await restoreVm(
      fromSnapshot({ ...snapshot, label: labelOf(configuration) }),
      { directory: place, targets, configuration, ...(name === undefined ? {} : { name }) },
      {
        clock: systemClock,
        openDisk: fromSnapshotDisks(snapshot),
        images: imageAccess,
        configurations,
      },
    );
  };
  await hypervisor.start(uuid);
  await restore("new", "twin");
  try {
    await virsh.run(["start", "twin"]);
    const twin = await virsh.run(["dumpxml", "twin"]);
    const { uuid: domain = "", agentPath: socketPath = "" } = parseDomain(twin);
    assert.notEqual(domain, uuid);
    assert.notEqual(macOf(twin), macOf(configuration));
    const exec = createAgentExec(planVirshAgent({ uri, domain, socketPath }));
    assert.equal(await runInGuest(exec, "echo up"), "up\n");
    assert.equal((await hypervisor.get(uuid)).state, "running");
  } finally {
    await virsh.run(["destroy", "twin"]);
    await virsh.run(["undefine", "twin"]);
  }
  await virsh.run(["destroy", uuid]);
  await virsh.run(["undefine", uuid]);
  await restore("old");
  assert.equal(macOf(await readXml(vm, uuid)), macOf(configuration));
  await virsh.run(["start", uuid]);
  assert.equal(await runInGuest(vm.exec, "echo up"), "up\n");
});

function labelOf(vmConfiguration: string) {
  const point = { pointId: "20261122t175118043-02adf6cc", itemId: "vm:x", itemName: "x", days: 2 };
  return { ...point, vmConfiguration };
}
