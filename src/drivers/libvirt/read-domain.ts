/** Reads domains of libvirt whose disks may be volumes of its pools. Internal to this folder. */
import { attributeOf, childOf, parseXml } from "./xml.ts";
import {
  listVolumes,
  parseDomain,
  volumeKey,
  type Domain,
  type VolumeImage,
  type VolumeImages,
} from "./domain-xml.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";

/** Where the volumes lie that the XML names; those of a stopped pool are left out. */
export async function resolveVolumes(virsh: Virsh, xml: string): Promise<VolumeImages> {
  const images = new Map<string, VolumeImage>();
  for (const name of listVolumes(xml)) {
    const key = volumeKey(name);
    if (images.has(key)) continue;
    const image = await findVolumeImage(virsh, name);
    if (image !== undefined) images.set(key, image);
  }
  return images;
}

/** Runs a command that prints the XML of a domain, and reads it. Errors: VmNotFound, QmpFailed. */
export async function readDomain(virsh: Virsh, args: readonly string[]): Promise<Domain> {
  const xml = await virsh.ask(args);
  return parseDomain(xml, await resolveVolumes(virsh, xml));
}

async function findVolumeImage(
  virsh: Virsh,
  name: { readonly pool: string; readonly volume: string },
): Promise<VolumeImage | undefined> {
  try {
    const args = ["vol-dumpxml", `--pool=${name.pool}`, `--vol=${name.volume}`];
    const root = parseXml(await virsh.ask(args));
    const type = attributeOf(root, "type");
    const path = childOf(childOf(root, "target"), "path")?.text;
    if (path === undefined || (type !== "file" && type !== "block")) return undefined;
    return { path, isDevice: type === "block" };
  } catch (error) {
    // The pool is not started, or the volume is gone: then libvirt cannot start the VM either.
    if (!isVirshRefusal(error)) throw error;
    return undefined;
  }
}
