/** The XML of domains as it goes into recovery points, and domains that are defined for restored VMs. */
import { lstat, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";

import { KluisError, isKluisError } from "#base/kluis-error.ts";
import { syncDirectory, syncFile } from "#drivers/layers/durable-file.ts";
import type { RestoredVm, VmConfigurations } from "#ports/vm-configurations.ts";
import {
  giveNewIdentity,
  nameImages,
  parseDomain,
  readDiskSecrets,
  withoutOtherDisks,
  type Domain,
} from "./domain-xml.ts";
import { assertThisHost } from "./libvirt-place.ts";
import { readSecret } from "./read-secret.ts";
import { Virsh, VIRSH_XML } from "./virsh.ts";

/**
 * Configurations of the domains of one libvirt. A restored VM with a name of its own gets a new
 * identity (name, UUID, MAC addresses), one without gets the old one, which must be free. A disk that
 * was left out of the recovery point is not in it. Its XML is written beside its disks and defined.
 */
export function createDomainConfigurations(uri: string): VmConfigurations {
  const virsh = new Virsh(uri);
  return {
    read: (vmId, signal) =>
      virsh.run(["dumpxml", "--inactive", "--security-info", `--domain=${vmId}`], { signal }),
    check: async (vm, signal) => {
      const xml = planIdentity(vm);
      const path = pathOf(vm, parseDomain(xml));
      await assertFree(virsh, { xml, path, directory: vm.directory }, signal);
      return path;
    },
    readDiskKeys: async (configuration, diskNames, signal) => {
      const keys = new Map<string, Uint8Array>();
      for (const [name, secretId] of readDiskSecrets(configuration)) {
        if (diskNames.includes(name)) keys.set(name, await readSecret(virsh, secretId, signal));
      }
      return keys;
    },
    create: async (vm, signal) => {
      const identity = planIdentity(vm);
      const images = new Map(vm.disks.map((disk) => [disk.name, disk]));
      const xml = nameImages(withoutOtherDisks(identity, new Set(images.keys())), images);
      const path = pathOf(vm, parseDomain(xml));
      await assertFree(virsh, { xml, path, directory: vm.directory }, signal);
      // It may hold the passwords of displays.
      await writeFile(path, xml, { flag: "wx", mode: 0o600 });
      await syncFile(path);
      await syncDirectory(vm.directory);
      await virsh.run(["define", VIRSH_XML], { xml, signal });
      return path;
    },
  };
}

function planIdentity(vm: Pick<RestoredVm, "configuration" | "name">): string {
  // Checks that it is a domain at all.
  parseDomain(vm.configuration);
  return vm.name === undefined ? vm.configuration : giveNewIdentity(vm.configuration, vm.name);
}

function pathOf(vm: Pick<RestoredVm, "directory">, domain: Domain): string {
  return resolve(join(vm.directory, `${domain.name}.xml`));
}

/** Errors: ArgumentInvalid for another host, TargetWriteFailed, TargetExists. */
async function assertFree(
  virsh: Virsh,
  target: { readonly xml: string; readonly path: string; readonly directory: string },
  signal: AbortSignal | undefined,
): Promise<void> {
  await assertThisHost(virsh.uri);
  const { path, directory } = target;
  const folder = await stat(directory).catch(() => undefined);
  if (folder?.isDirectory() !== true) {
    throw new KluisError("TargetWriteFailed", `Cannot restore to "${directory}": it is no folder`);
  }
  const file = await lstat(path).catch(() => undefined);
  if (file !== undefined) {
    throw new KluisError("TargetExists", `Cannot write the XML of a VM to "${path}": it exists`);
  }
  const { name, uuid } = parseDomain(target.xml);
  for (const identity of [name, ...(uuid === undefined ? [] : [uuid])]) {
    try {
      await virsh.run(["domstate", `--domain=${identity}`], { signal });
    } catch (error) {
      if (isKluisError(error, "VmNotFound")) continue;
      throw error;
    }
    throw new KluisError(
      "TargetExists",
      `Cannot define VM "${name}": libvirt has a VM "${identity}"; give the new one a name`,
    );
  }
}
