/** The fleecing suite's VM as a domain of the lab. */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";

import { openLibvirtHypervisor } from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { FleecingFixture } from "#testing/suites/fleecing-suite.ts";
import type { LibvirtVms } from "../../lab/libvirt-vm.ts";
import { readImageOf } from "./device-fixture.ts";
import { describeLeftovers } from "./fleece-witness.ts";
import { openLibvirtFixture, type LibvirtFixtureOptions } from "./libvirt-fixture.ts";

/** Makes a domain, stopped. */
export async function openLibvirtFleecing(
  vms: LibvirtVms,
  options: LibvirtFixtureOptions = {},
): Promise<FleecingFixture> {
  const fixture = await openLibvirtFixture(vms, options);
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
        ...(fixture.pool === undefined ? {} : { layerPool: fixture.pool.name }),
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
        await readdir(directory, { recursive: true }),
      ),
    [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
  };
}
