/** Reads domains of libvirt whose disks may be volumes of its pools. Internal to this folder. */
import { attributeOf, childOf, parseXml } from "./xml.ts";
import {
  listVolumes,
  parseDomain,
  volumeKey,
  type Domain,
  type VolumePaths,
} from "./domain-xml.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";

/** Files of the volumes that the XML names; of those that are no files of a started pool none. */
export async function resolveVolumes(virsh: Virsh, xml: string): Promise<VolumePaths> {
  const paths = new Map<string, string>();
  for (const name of listVolumes(xml)) {
    const key = volumeKey(name);
    if (paths.has(key)) continue;
    const path = await findVolumeFile(virsh, name);
    if (path !== undefined) paths.set(key, path);
  }
  return paths;
}

/** Runs a command that prints the XML of a domain, and reads it. Errors: VmNotFound, QmpFailed. */
export async function readDomain(virsh: Virsh, args: readonly string[]): Promise<Domain> {
  const xml = await virsh.ask(args);
  return parseDomain(xml, await resolveVolumes(virsh, xml));
}

async function findVolumeFile(
  virsh: Virsh,
  name: { readonly pool: string; readonly volume: string },
): Promise<string | undefined> {
  try {
    const args = ["vol-dumpxml", `--pool=${name.pool}`, `--vol=${name.volume}`];
    const root = parseXml(await virsh.ask(args));
    if (attributeOf(root, "type") !== "file") return undefined;
    return childOf(childOf(root, "target"), "path")?.text;
  } catch (error) {
    // The pool is not started, or the volume is gone: then libvirt cannot start the VM either.
    if (!isVirshRefusal(error)) throw error;
    return undefined;
  }
}
