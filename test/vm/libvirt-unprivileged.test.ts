/**
 * Goal: the libvirt driver does what the port promises where QEMU runs as a user without rights and
 * libvirt gives images to that user and takes them back, as distributions have it. Method: the
 * conformance suite, or a part of it, on a libvirt set up so.
 */
import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import { after, test } from "node:test";

import { testHypervisor } from "#testing/suites/hypervisor-suite.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open(libvirtDevicesMiB, { qemuUser: "unprivileged" });
after(() => vms[Symbol.asyncDispose]());

test("libvirt, unprivileged QEMU: an image belongs to another user while the VM runs", async () => {
  await using vm = await vms.create();
  const path = vm.diskPath("vdb");
  const before = await stat(path);
  await vm.host.virsh.run(["start", vm.uuid]);
  assert.notEqual((await stat(path)).uid, before.uid);
});

testHypervisor("libvirt driver, unprivileged QEMU", {
  open: () => openLibvirtFixture(vms),
  rounds: isLong ? 10 : 2,
  writtenZeros: "data",
  ...(isLong ? {} : { part: /detaches a running VM/ }),
});

if (isLong) {
  testHypervisor("libvirt driver, unprivileged QEMU, block device", {
    open: () => openLibvirtFixture(vms, { vdb: "device" }),
    rounds: 10,
    writtenZeros: "data",
  });
}
