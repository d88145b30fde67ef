/**
 * Goal: the QEMU driver keeps instants aside as the port promises. Method: the fleecing suite on warm
 * lab VMs, one disk raw and one qcow2.
 */
import { join } from "node:path";

import { testFleecing, type FleecingFixture } from "#testing/suites/fleecing-suite.ts";
import { createDeviceRun, fixtureDevices, fixtureDisksMiB, readImageOf } from "./device-fixture.ts";
import { createDrivenVm } from "./driven-vm.ts";
import { listFleeceLeftovers, tellMachine } from "./fleece-witness.ts";

const isLong = process.env["KLUIS_LONG"] === "1";

async function openFixture(): Promise<FleecingFixture> {
  const vm = await createDrivenVm({ dataDisksMiB: fixtureDisksMiB, rawDisk: "vdb" });
  return {
    hypervisor: vm.hypervisor,
    vmId: vm.vmId,
    devices: fixtureDevices,
    run: createDeviceRun(vm.exec),
    cutPower: () => vm.cutPower(),
    reopen: (onStep) => vm.reopen(onStep),
    pause: () => tellMachine(vm, "stop"),
    resume: () => tellMachine(vm, "cont"),
    copyDisk: (disk) =>
      readImageOf({ ...vm, isOpen: true }, disk, join(vm.lab.directory, "copied.raw")),
    listLeftovers: () => listFleeceLeftovers(vm),
    [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose](),
  };
}

testFleecing("QEMU driver", { open: openFixture, rounds: isLong ? 40 : 3 });
