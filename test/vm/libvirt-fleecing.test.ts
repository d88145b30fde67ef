/**
 * Goal: the libvirt driver keeps instants aside as the port promises. Method: the fleecing suite on
 * domains of a libvirt of its own, one disk raw and one qcow2.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { after } from "node:test";

import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import { testFleecing, type FleecingFixture } from "#testing/suites/fleecing-suite.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { readImageOf } from "./device-fixture.ts";
import { describeLeftovers } from "./fleece-witness.ts";
import { libvirtDevicesMiB, openLibvirtFixture } from "./libvirt-fixture.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const vms = await LibvirtVms.open(libvirtDevicesMiB);
after(() => vms[Symbol.asyncDispose]());

async function openFixture(): Promise<FleecingFixture> {
  const fixture = await openLibvirtFixture(vms);
  const { hypervisor, vmId } = fixture;
  const { host } = vms;
  const [image] = (await hypervisor.get(vmId)).disks;
  assert.ok(image !== undefined);
  const directory = dirname(image.path);
  const tell = async (verb: "suspend" | "resume"): Promise<void> => {
    await host.virsh.run([verb, vmId]);
  };
  const ask = async (execute: string, args: object = {}): Promise<unknown> => {
    const message = JSON.stringify({ execute, arguments: args });
    const answer = await host.virsh.run(["qemu-monitor-command", vmId, message]);
    return (JSON.parse(answer) as { readonly return: unknown }).return;
  };
  return {
    ...fixture,
    reopen: (onStep) =>
      openLibvirtHypervisor({
        uri: host.uri,
        stateDirectory: join(directory, "state"),
        configDirectory: host.configDirectory,
        ...(onStep === undefined ? {} : { onStep }),
      }),
    pause: () => tell("suspend"),
    resume: () => tell("resume"),
    copyDisk: (disk) =>
      readImageOf({ hypervisor, vmId, isOpen: true }, disk, join(directory, "copied.raw")),
    listLeftovers: async () =>
      describeLeftovers(
        await ask("query-named-block-nodes", { flat: true }),
        await ask("query-block-exports"),
        await readdir(directory),
      ),
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}

testFleecing("libvirt driver", { open: openFixture, rounds: isLong ? 40 : 2, isBrief: !isLong });
