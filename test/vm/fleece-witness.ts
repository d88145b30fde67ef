/** An independent copy of a VM's disks at the very moment of an instant, for the tests of fleecing. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { QmpClient, toObjects } from "#drivers/qmp/qmp-client.ts";
import type { QemuHypervisor } from "#drivers/qemu/qemu-hypervisor.ts";
import { copyDisk } from "./device-fixture.ts";
import type { DrivenVm } from "./driven-vm.ts";

/** A driver that lets the machine stand still at each instant and copies its disks then. */
export interface FleeceWitness {
  readonly hypervisor: QemuHypervisor;
  /** The copy of a disk at the last instant: a raw file, overwritten by the next. */
  pathOf(disk: string): string;
}

/** Opens it; copies `names`. The guest writes on until the instant, and from it on. */
export async function openFleeceWitness(
  vm: DrivenVm,
  names: readonly string[],
): Promise<FleeceWitness> {
  const pathOf = (disk: string): string => join(vm.lab.directory, `witness-${disk}.raw`);
  const hypervisor = await vm.reopen(async (step) => {
    if (step === "frozen") {
      await tellMachine(vm, "stop");
      const { disks } = await vm.hypervisor.get(vm.vmId);
      for (const disk of disks.filter(({ name }) => names.includes(name))) {
        copyDisk({ ...disk, isOpen: true }, pathOf(disk.name));
      }
    }
    if (step === "fleece-taken") await tellMachine(vm, "cont");
  });
  return { hypervisor, pathOf };
}

/** Runs a command on the second monitor: the driver talks on the first. */
export async function tellMachine(vm: DrivenVm, command: string): Promise<void> {
  await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
  await qmp.execute(command);
}

/** Nodes, exports and bitmaps of Kluis in the running QEMU, and files for copies beside its images. */
export async function listFleeceLeftovers(vm: DrivenVm): Promise<readonly string[]> {
  await using qmp = await QmpClient.open(vm.paths.rescueSocket ?? "");
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  const exports = await qmp.execute("query-block-exports");
  return describeLeftovers(nodes, exports, await readdir(vm.lab.directory));
}

/** What of QEMU's nodes and exports, and of files, belongs to Kluis. */
export function describeLeftovers(
  nodeList: unknown,
  exportList: unknown,
  fileNames: readonly string[],
): readonly string[] {
  const nodes = toObjects(nodeList, "nodes");
  const names = nodes.map((node) => `node ${String(node["node-name"])}`);
  const bitmaps = nodes.flatMap((node) => toObjects(node["dirty-bitmaps"] ?? [], "bitmaps"));
  const exports = toObjects(exportList, "exports");
  const files = fileNames.filter((name) => name.includes("kluis-fleece"));
  return [
    ...names.filter((name) => name.startsWith("node kluis-")),
    ...bitmaps.map((bitmap) => `bitmap ${String(bitmap["name"])}`),
    ...exports.map((each) => `export ${String(each["id"])}`),
    ...files.map((name) => `file ${name}`),
  ];
}
