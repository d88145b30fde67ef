/**
 * Goal: the libvirt driver keeps instants aside as the port promises. Method: the fleecing suite on
 * domains of a libvirt of its own, one disk raw and one qcow2.
 */
import { after } from "node:test";

import { testFleecing } from "#testing/suites/fleecing-suite.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { openLibvirtFleecing } from "./libvirt-fleecing-fixture.ts";
import { libvirtDevicesMiB } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

testFleecing("libvirt driver", {
  open: () => openLibvirtFleecing(vms),
  rounds: isLong ? 40 : 2,
  isBrief: !isLong,
});
