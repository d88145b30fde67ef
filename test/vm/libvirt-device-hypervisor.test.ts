/**
 * Goal: the libvirt driver does what the port promises for a disk that is a block device. Method: the
 * conformance and the fleecing suite on domains whose first data disk is a loop device and whose second
 * is an image file; all of both with KLUIS_LONG, else what differs.
 */
import { after } from "node:test";

import { testFleecing } from "#testing/suites/fleecing-suite.ts";
import { testHypervisor } from "#testing/suites/hypervisor-suite.ts";
import { isInSlice } from "#testing/slice.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { openLibvirtFleecing } from "./libvirt-fleecing-fixture.ts";
import { libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

testHypervisor("libvirt driver, block device", {
  open: () => openLibvirtFixture(vms, { vdb: "device" }),
  rounds: isLong ? 20 : 2,
  writtenZeros: "data",
  ...(isLong
    ? {}
    : {
        part: /names exactly|detaches a running/,
      }),
});

// The same with image files runs each time.
if (isInSlice(3)) {
  testFleecing("libvirt driver, block device", {
    open: () => openLibvirtFleecing(vms, { vdb: "device" }),
    rounds: isLong ? 20 : 2,
    isBrief: !isLong,
  });
}
