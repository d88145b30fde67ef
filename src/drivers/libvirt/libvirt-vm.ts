/** A domain as operations on its layers see it; internal to this folder. */
import { dirname, join } from "node:path";

import { present } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { syncDirectory, syncFile } from "#drivers/layers/durable-file.ts";
import type { LayeredVm } from "#drivers/layers/layered-vm.ts";
import { ensureVmDirectory, planVmDirectory } from "#drivers/layers/vm-directory.ts";
import { readStoredRecord } from "#drivers/layers/vm-record-file.ts";
import {
  activeLayer,
  isOnDevice,
  originalLayer,
  type DiskRecord,
  type VmRecord,
} from "#drivers/layers/vm-record.ts";
import { assertCommitPossible } from "./assert-commit-possible.ts";
import {
  nameImages,
  parseDomain,
  readImagePaths,
  type Domain,
  type NamedImage,
  type RefusedDisk,
} from "./domain-xml.ts";
import { placeLayers } from "./place-layers.ts";
import { readDomain, resolveVolumes } from "./read-domain.ts";
import { readSecret } from "./read-secret.ts";
import { isVirshRefusal, VIRSH_XML, type Virsh } from "./virsh.ts";

/** A domain that libvirt knows. */
export interface DefinedDomain extends Domain {
  readonly uuid: string;
}

/** See above. */
export interface LibvirtVm extends LayeredVm {
  readonly host: LibvirtHost;
  readonly virsh: Virsh;
  /** As its persistent XML has it. */
  readonly domain: DefinedDomain;
}

/** What is the same for all VMs of one libvirt. */
export interface LibvirtHost {
  readonly virsh: Virsh;
  readonly stateDirectory: string;
  /** Where libvirt keeps its persistent XML. */
  readonly configDirectory: string;
  readonly clock: Clock;
  readonly onStep: LayeredVm["onStep"];
  /** Pool for the layers of block devices whose record names no place yet. */
  readonly layerPool?: string;
}

/** Finds a domain by its UUID or name. Errors: VmNotFound, QmpFailed, ConfigInvalid. */
export async function findLibvirtVm(
  host: LibvirtHost,
  vmId: string,
  signal: AbortSignal | undefined,
): Promise<LibvirtVm> {
  const { virsh, clock, onStep } = host;
  const xml = await virsh.ask(["dumpxml", "--inactive", `--domain=${vmId}`], { signal });
  const parsed = parseDomain(xml, await resolveVolumes(virsh, xml));
  const found = { ...parsed, uuid: present(parsed.uuid, "libvirt gives every domain a UUID") };
  const directory = planVmDirectory(host.stateDirectory, found.uuid);
  await ensureVmDirectory(directory);
  const stored = await readStoredRecord(directory);
  const { disks, refused } = await placeLayers(found, { virsh, layerPool: host.layerPool, stored });
  const domain = withRefused(found, refused);
  return {
    host,
    virsh,
    domain,
    directory,
    description: {
      name: domain.uuid,
      disks,
      refused: domain.refused,
      ...(domain.osDisk === undefined ? {} : { osDisk: domain.osDisk }),
    },
    clock,
    onStep,
    assertMergePossible: (diskNames) => assertCommitPossible({ virsh, domain }, diskNames),
    nameLayers: (record) => nameLayers(host, domain, record),
    readSecret: (secretId) => readSecret(virsh, secretId),
    readConfigured: () => readConfigured(virsh, domain.uuid),
    readNames: async () => {
      const now = await readDomain(virsh, ["dumpxml", "--inactive", `--domain=${domain.uuid}`]);
      return new Map(now.disks.map((disk) => [disk.name, disk.path]));
    },
  };
}

/**
 * What the persistent XML of every domain names, and the running one's chain. A domain that was
 * restored may stand on layers of another.
 */
async function readConfigured(virsh: Virsh, uuid: string): Promise<ReadonlySet<string>> {
  const named = new Set<string>();
  const uuids = await virsh.ask(["list", "--all", "--uuid"]);
  const dumps = uuids
    .split("\n")
    .filter((line) => line !== "")
    .map((each) => ["dumpxml", "--inactive", `--domain=${each}`]);
  for (const args of [["dumpxml", `--domain=${uuid}`], ...dumps]) {
    let xml: string;
    try {
      xml = await virsh.ask(args);
    } catch (error) {
      // Undefined since the list was made.
      if (isKluisError(error, "VmNotFound")) continue;
      throw error;
    }
    const volumes = await resolveVolumes(virsh, xml);
    for (const path of readImagePaths(xml, volumes)) named.add(path);
  }
  return named;
}

function withRefused(domain: DefinedDomain, refused: readonly RefusedDisk[]): DefinedDomain {
  const names = new Set(refused.map((disk) => disk.name));
  return {
    ...domain,
    disks: domain.disks.filter((disk) => !names.has(disk.name)),
    refused: [...domain.refused, ...refused],
  };
}

/** Defines the persistent XML, and the one inside a saved state, onto the active layers. */
async function nameLayers(
  host: LibvirtHost,
  domain: DefinedDomain,
  record: VmRecord,
): Promise<void> {
  const { virsh } = host;
  const images = new Map(record.disks.map((disk) => [disk.name, toNamedImage(disk)]));
  const target = `--domain=${domain.uuid}`;
  // With passwords, which a definition without them would take away.
  const xml = await virsh.ask(["dumpxml", "--inactive", "--security-info", target]);
  const named = nameImages(xml, images);
  if (named !== xml) {
    await virsh.run(["define", VIRSH_XML], { xml: named });
    await syncDefinition(host, domain);
  }
  const saved = await readManagedSave(virsh, target);
  if (saved === undefined) return;
  const renamed = nameImages(saved, images);
  if (renamed !== saved) {
    await virsh.run(["managedsave-define", target, VIRSH_XML], { xml: renamed });
  }
}

/** What the XML is to name: the active layer, and with it all below where they are encrypted. */
function toNamedImage(disk: DiskRecord): NamedImage {
  const { describedPath, volume } = disk;
  const { number, path, format, secretId } = activeLayer(disk);
  const original = { ...originalLayer(disk), path: describedPath };
  if (number === 0) {
    return {
      path: describedPath,
      format,
      isDevice: isOnDevice(disk),
      ...(volume === undefined ? {} : { volume }),
    };
  }
  if (secretId === undefined) return { path, format };
  return { path, format, below: [...disk.layers.slice(1, -1).toReversed(), original] };
}

/** The XML that a start from the domain's saved state would use; `undefined` where it has none. */
async function readManagedSave(virsh: Virsh, target: string): Promise<string | undefined> {
  try {
    return await virsh.ask(["managedsave-dumpxml", "--security-info", target]);
  } catch (error) {
    const isAbsent = isVirshRefusal(error) && /does not have managed save/.test(error.message);
    if (isAbsent) return undefined;
    throw error;
  }
}

/** libvirt syncs the file and not its name. */
async function syncDefinition(host: LibvirtHost, domain: Domain): Promise<void> {
  const path = join(host.configDirectory, `${domain.name}.xml`);
  try {
    await syncFile(path);
    await syncDirectory(dirname(path));
  } catch (error) {
    // A libvirt that keeps its XML elsewhere, or shows it to its own user only.
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EACCES") throw error;
  }
}
