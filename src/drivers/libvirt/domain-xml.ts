/** The XML of a domain: what Kluis reads of it, and naming other layers in it. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import {
  applyEdits,
  attributeOf,
  childOf,
  escapeXml,
  parseXml,
  quoteXml,
  type XmlEdit,
  type XmlElement,
} from "./xml.ts";

/** A disk that layers can be put on. */
export interface DomainDisk {
  /** Name of the target, for example `vda`. */
  readonly name: string;
  /** What the domain opens: the newest layer. Absolute. */
  readonly path: string;
  readonly format: DiskLayer["format"];
  /** Files from the top down; of a running domain the whole chain, of another the top alone. */
  readonly chain: readonly string[];
}

/** A disk that layers cannot be put on, and why. */
export interface RefusedDisk {
  readonly name: string;
  readonly reason: string;
}

/** See above. */
export interface Domain {
  /** Absent only before libvirt has given one. */
  readonly uuid: string | undefined;
  readonly name: string;
  readonly disks: readonly DomainDisk[];
  readonly refused: readonly RefusedDisk[];
  /** Disks that no snapshot takes: removable, read-only, shared. */
  readonly skipped: readonly string[];
  /** The host's side of the guest agent's channel; absent where there is none, or before a start. */
  readonly agentPath?: string;
  readonly hasAgent: boolean;
}

const agentChannel = "org.qemu.guest_agent.0";

/** Reads the XML of a domain. Errors: ConfigInvalid. */
export function parseDomain(xml: string): Domain {
  const root = parseXml(xml);
  const devices = childOf(root, "devices");
  const disks: DomainDisk[] = [];
  const refused: RefusedDisk[] = [];
  const skipped: string[] = [];
  for (const element of disksOf(root)) {
    const name = targetOf(element);
    if (isSkipped(element)) {
      skipped.push(name);
      continue;
    }
    const disk = readDisk(element, name);
    if ("reason" in disk) refused.push(disk);
    else disks.push(disk);
  }
  const channel = devices?.children.find(
    (child) =>
      child.name === "channel" && attributeOf(childOf(child, "target"), "name") === agentChannel,
  );
  const agentPath = attributeOf(childOf(channel, "source"), "path");
  return {
    uuid: childOf(root, "uuid")?.text,
    name: readName(root),
    disks,
    refused,
    skipped,
    hasAgent: channel !== undefined,
    ...(agentPath === undefined ? {} : { agentPath }),
  };
}

/** Paths of all images that the XML names, whatever the disks are. */
export function readImagePaths(xml: string): readonly string[] {
  return disksOf(parseXml(xml)).flatMap(chainOf);
}

/** The XML with other images for its disks, by name; everything else stays as it is. */
export function nameImages(
  xml: string,
  images: ReadonlyMap<string, Pick<DiskLayer, "path" | "format">>,
): string {
  const edits: XmlEdit[] = [];
  for (const element of disksOf(parseXml(xml))) {
    const image = images.get(targetOf(element));
    if (image !== undefined) edits.push(...planImage(xml, element, image));
  }
  return applyEdits(xml, edits);
}

function planImage(
  xml: string,
  element: XmlElement,
  image: Pick<DiskLayer, "path" | "format">,
): readonly XmlEdit[] {
  const edits: XmlEdit[] = [];
  const source = present(childOf(element, "source"), "a disk that has layers has a source");
  edits.push(setAttribute(xml, source, "file", image.path));
  const driver = childOf(element, "driver");
  if (driver === undefined) {
    const text = `<driver name='qemu' type='${image.format}'/>`;
    edits.push({ start: source.start, end: source.start, text });
  } else {
    edits.push(setAttribute(xml, driver, "type", image.format));
  }
  // libvirt finds the chain in the headers of the layers, which are right at any moment.
  const backing = childOf(element, "backingStore");
  if (backing !== undefined) edits.push({ start: backing.start, end: backing.end, text: "" });
  return edits;
}

function setAttribute(xml: string, element: XmlElement, name: string, value: string): XmlEdit {
  const { start, openEnd: end } = element;
  const tag = xml.slice(start, end);
  const pattern = new RegExp(`\\s${name}\\s*=\\s*(?:"[^"]*"|'[^']*')`);
  const text = ` ${name}=${quoteXml(value)}`;
  if (pattern.test(tag)) return { start, end, text: tag.replace(pattern, () => text) };
  return { start, end, text: tag.replace(/^<[^\s/>]+/, (head) => head + text) };
}

/**
 * The XML with that name, and without what else is one domain's own: UUID, MAC addresses, firmware
 * variables and the sockets of its channels, all of which libvirt makes anew.
 */
export function giveNewIdentity(xml: string, name: string): string {
  const root = parseXml(xml);
  const old = present(childOf(root, "name"), "a domain that was parsed has a name");
  const edits: XmlEdit[] = [{ start: old.openEnd, end: old.closeStart, text: escapeXml(name) }];
  const devices = childOf(root, "devices")?.children ?? [];
  const own = [
    childOf(root, "uuid"),
    childOf(childOf(root, "os"), "nvram"),
    ...devices.filter((each) => each.name === "interface").map((each) => childOf(each, "mac")),
    ...devices.filter(isSocketChannel).map((each) => childOf(each, "source")),
  ];
  for (const element of own) {
    if (element !== undefined) edits.push({ start: element.start, end: element.end, text: "" });
  }
  return applyEdits(xml, edits);
}

function isSocketChannel(device: XmlElement): boolean {
  return device.name === "channel" && attributeOf(device, "type") === "unix";
}

function readName(root: XmlElement): string {
  const name = childOf(root, "name")?.text ?? "";
  if (root.name === "domain" && name !== "") return name;
  throw new KluisError("ConfigInvalid", "Cannot read the XML of libvirt: it is no domain");
}

/** Elements of the disks, in order. */
export function disksOf(root: XmlElement): readonly XmlElement[] {
  return childOf(root, "devices")?.children.filter((child) => child.name === "disk") ?? [];
}

function targetOf(disk: XmlElement): string {
  const name = attributeOf(childOf(disk, "target"), "dev");
  if (name !== undefined) return name;
  throw new KluisError("ConfigInvalid", "Cannot read the XML of libvirt: a disk has no target");
}

function isSkipped(disk: XmlElement): boolean {
  const device = attributeOf(disk, "device") ?? "disk";
  const isShown = (name: string): boolean => childOf(disk, name) !== undefined;
  return device !== "disk" || isShown("readonly") || isShown("shareable");
}

function readDisk(disk: XmlElement, name: string): DomainDisk | RefusedDisk {
  const type = attributeOf(disk, "type");
  const driver = childOf(disk, "driver");
  const format = attributeOf(driver, "type") ?? "raw";
  const chain = chainOf(disk);
  const [path] = chain;
  if (type !== "file" || path === undefined || path.startsWith("/dev/")) {
    return { name, reason: `it is of type "${type ?? ""}" and no image file` };
  }
  if (format !== "raw" && format !== "qcow2") {
    return { name, reason: `its format "${format}" cannot have layers` };
  }
  if (childOf(childOf(disk, "source"), "encryption") !== undefined) {
    return { name, reason: "it is encrypted, and layers of it would not be" };
  }
  if (attributeOf(driver, "cache") === "unsafe") {
    return { name, reason: 'its cache mode "unsafe" never makes a write durable' };
  }
  return { name, path, format, chain };
}

/** Files of a disk from the top down, as far as the XML names them. */
function chainOf(disk: XmlElement): readonly string[] {
  const chain: string[] = [];
  let element: XmlElement | undefined = disk;
  while (element !== undefined) {
    const source = childOf(element, "source");
    const path = attributeOf(source, "file") ?? attributeOf(source, "dev");
    if (path === undefined) break;
    chain.push(path);
    element = childOf(element, "backingStore");
  }
  return chain;
}
