/**
 * Goal: the libvirt driver does what the port promises. Method: the conformance suite on domains of
 * a libvirt of its own, one for the file.
 */
import { after } from "node:test";

import { testHypervisor } from "#testing/suites/hypervisor-suite.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

// libvirt does not carry detect_zeroes from a disk to its overlay before the next start.
testHypervisor("libvirt driver", {
  open: () => openLibvirtFixture(vms),
  rounds: isLong ? 40 : 3,
  writtenZeros: "data",
});
