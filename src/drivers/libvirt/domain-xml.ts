/** The XML of a domain: what Kluis reads of it, and naming other layers in it. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import { backingStoreXml, isBackingStoreOf, type ImageBelow } from "./backing-store.ts";
import { readEncryption, type DiskEncryption } from "./disk-encryption.ts";
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
  /** Where the XML names it as a volume of a pool. */
  readonly volume?: VolumeName;
  /** Whether it is a block device. */
  readonly isDevice: boolean;
  /** Where it is encrypted by LUKS: UUID of libvirt's secret that opens it. */
  readonly secretId?: string;
}

/** A volume of a pool, as disks name it. */
export interface VolumeName {
  readonly pool: string;
  readonly volume: string;
}

/** Where a volume lies. */
export interface VolumeImage {
  readonly path: string;
  readonly isDevice: boolean;
}

/** Volumes by {@link volumeKey}; one that is neither file nor device, or of a stopped pool, is absent. */
export type VolumeImages = ReadonlyMap<string, VolumeImage>;

/** What a disk is to open. */
export interface NamedImage extends Pick<DiskLayer, "path" | "format"> {
  /** The same image, named so. */
  readonly volume?: VolumeName;
  /** Whether it is a block device. Default: no. */
  readonly isDevice?: boolean;
  /** All that lies below it, from the top down, where that is to be named too. Default: nothing is. */
  readonly below?: readonly ImageBelow[];
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
  /** Disks that no snapshot takes: removable, read-only, shared, and those that a stop empties. */
  readonly skipped: readonly string[];
  /** The one it boots from: first by its boot order, else by its place. */
  readonly osDisk?: string;
  /** The host's side of the guest agent's channel; absent where there is none, or before a start. */
  readonly agentPath?: string;
  readonly hasAgent: boolean;
}

const agentChannel = "org.qemu.guest_agent.0";
const noVolumes: VolumeImages = new Map();

/** A volume as a key; names of pools hold no slash. */
export function volumeKey({ pool, volume }: VolumeName): string {
  return `${pool}/${volume}`;
}

/** Volumes that the XML names, whatever the disks are. */
export function listVolumes(xml: string): readonly VolumeName[] {
  return disksOf(parseXml(xml)).flatMap((disk) =>
    imagesOf(disk).flatMap((image) => volumeOf(childOf(image, "source")) ?? []),
  );
}

/** Reads the XML of a domain. Errors: ConfigInvalid. */
export function parseDomain(xml: string, volumes: VolumeImages = noVolumes): Domain {
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
    const disk = readDisk(element, name, volumes);
    if ("reason" in disk) refused.push(disk);
    else disks.push(disk);
  }
  const channel = devices?.children.find(
    (child) =>
      child.name === "channel" && attributeOf(childOf(child, "target"), "name") === agentChannel,
  );
  const agentPath = attributeOf(childOf(channel, "source"), "path");
  const osDisk = findOsDisk(disksOf(root).filter((each) => !isSkipped(each)));
  return {
    uuid: childOf(root, "uuid")?.text,
    name: readName(root),
    disks,
    refused,
    skipped,
    hasAgent: channel !== undefined,
    ...(osDisk === undefined ? {} : { osDisk }),
    ...(agentPath === undefined ? {} : { agentPath }),
  };
}

function findOsDisk(disks: readonly XmlElement[]): string | undefined {
  const orderOf = (disk: XmlElement): number =>
    Number(attributeOf(childOf(disk, "boot"), "order") ?? Infinity);
  // The sort is stable: without orders the first one stays the first.
  const compare = (a: number, b: number): number => (a === b ? 0 : a - b);
  const first = disks.toSorted((a, b) => compare(orderOf(a), orderOf(b))).at(0);
  return first === undefined ? undefined : targetOf(first);
}

/**
 * The XML without the disks that a recovery point could have and these names do not: a restored VM
 * must not write the disks of the one that was backed up.
 */
export function withoutOtherDisks(xml: string, names: ReadonlySet<string>): string {
  const edits = disksOf(parseXml(xml))
    .filter((disk) => !isSkipped(disk) && !names.has(targetOf(disk)))
    .map(({ start, end }) => ({ start, end, text: "" }));
  return applyEdits(xml, edits);
}

/** Secrets by which disks are encrypted, by the disk's name, whatever the disks are. */
export function readDiskSecrets(xml: string): ReadonlyMap<string, string> {
  const secrets = disksOf(parseXml(xml)).flatMap((disk) => {
    const encryption = readEncryption(disk);
    return encryption.kind === "luks" ? [[targetOf(disk), encryption.secretId] as const] : [];
  });
  return new Map(secrets);
}

/** Paths of all images that the XML names, whatever the disks are. */
export function readImagePaths(xml: string, volumes: VolumeImages = noVolumes): readonly string[] {
  return disksOf(parseXml(xml)).flatMap((disk) => chainOf(disk, volumes));
}

/** The XML with other images for its disks, by name; everything else stays as it is. */
export function nameImages(xml: string, images: ReadonlyMap<string, NamedImage>): string {
  const edits: XmlEdit[] = [];
  for (const element of disksOf(parseXml(xml))) {
    const image = images.get(targetOf(element));
    if (image !== undefined) edits.push(...planImage(xml, element, image));
  }
  return applyEdits(xml, edits);
}

function planImage(xml: string, element: XmlElement, image: NamedImage): readonly XmlEdit[] {
  const edits: XmlEdit[] = [];
  const source = present(childOf(element, "source"), "a disk that has layers has a source");
  const { type, named } = planSource(image);
  if (attributeOf(element, "type") !== type) edits.push(setAttributes(xml, element, { type }));
  edits.push(setAttributes(xml, source, { ...noSource, ...named }));
  const driver = childOf(element, "driver");
  if (driver === undefined) {
    const text = `<driver name='qemu' type='${image.format}'/>`;
    edits.push({ start: source.start, end: source.start, text });
  } else {
    edits.push(setAttributes(xml, driver, { type: image.format }));
  }
  const backing = childOf(element, "backingStore");
  const { below } = image;
  if (below !== undefined) {
    if (isBackingStoreOf(backing, below)) return edits;
    const { start, end } = backing ?? { start: source.end, end: source.end };
    edits.push({ start, end, text: backingStoreXml(below) });
  } else if (backing !== undefined) {
    // libvirt finds a chain in the headers of the layers, which are right at any moment.
    edits.push({ start: backing.start, end: backing.end, text: "" });
  }
  return edits;
}

function planSource(image: NamedImage): { readonly type: string; readonly named: Attributes } {
  const { path, volume } = image;
  if (volume !== undefined) return { type: "volume", named: { ...volume } };
  return image.isDevice === true
    ? { type: "block", named: { dev: path } }
    : { type: "file", named: { file: path } };
}

/** Attributes by which a source names an image, none set. */
const noSource: Attributes = {
  file: undefined,
  dev: undefined,
  pool: undefined,
  volume: undefined,
};

/** What attributes are to be; `undefined` takes one away. */
type Attributes = Readonly<Record<string, string | undefined>>;

function setAttributes(xml: string, element: XmlElement, attributes: Attributes): XmlEdit {
  const { start, openEnd: end } = element;
  let tag = xml.slice(start, end);
  for (const [name, value] of Object.entries(attributes)) {
    const pattern = new RegExp(`\\s${name}\\s*=\\s*(?:"[^"]*"|'[^']*')`);
    const text = value === undefined ? "" : ` ${name}=${quoteXml(value)}`;
    if (pattern.test(tag)) tag = tag.replace(pattern, () => text);
    else tag = tag.replace(/^<[^\s/>]+/, (head) => head + text);
  }
  return { start, end, text: tag };
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
  const isRemovable = device !== "disk" && device !== "lun";
  return isRemovable || ["readonly", "shareable", "transient"].some(isShown);
}

function readDisk(disk: XmlElement, name: string, volumes: VolumeImages): DomainDisk | RefusedDisk {
  const image = readImage(disk, volumes);
  if (typeof image === "string") return { name, reason: image };
  const { isDevice } = image;
  const format = attributeOf(childOf(disk, "driver"), "type") ?? "raw";
  const encryption = readWholeEncryption(disk);
  const reason = whyNoLayers(disk, { format, isDevice, encryption });
  if (reason !== undefined || (format !== "raw" && format !== "qcow2")) {
    return { name, reason: reason ?? `its format "${format}" cannot have layers` };
  }
  const sealed = encryption.kind === "luks" ? { secretId: encryption.secretId } : {};
  return { name, format, chain: chainOf(disk, volumes), ...image, ...sealed };
}

/** What the domain opens, or why that is nothing to put layers on. */
function readImage(
  disk: XmlElement,
  volumes: VolumeImages,
): Pick<DomainDisk, "path" | "isDevice" | "volume"> | string {
  const type = attributeOf(disk, "type") ?? "";
  const volume = volumeOf(childOf(disk, "source"));
  if (volume !== undefined) {
    const image = volumes.get(volumeKey(volume));
    if (image !== undefined) return { ...image, volume };
    const what = `volume "${volume.volume}" of pool "${volume.pool}"`;
    return `${what} is no file or device of a started pool`;
  }
  const [path] = chainOf(disk, volumes);
  const isDevice = type === "block";
  if (path === undefined || (!isDevice && type !== "file")) {
    return `it is of type "${type}", neither an image file nor a block device`;
  }
  if (isDevice || !path.startsWith("/dev/")) return { path, isDevice };
  return `"${path}" is named as a file; its XML must say type="block" and dev=`;
}

function whyNoLayers(
  disk: XmlElement,
  image: {
    readonly format: string;
    readonly isDevice: boolean;
    readonly encryption: DiskEncryption;
  },
): string | undefined {
  const { format, isDevice, encryption } = image;
  if (attributeOf(disk, "device") === "lun") {
    return 'it is passed through to the guest as a LUN (device="lun")';
  }
  if (isDevice && format !== "raw") {
    return `it is a block device of format "${format}"; only raw ones have layers`;
  }
  if (encryption.kind === "refused") return encryption.reason;
  if (encryption.kind === "luks" && isDevice) {
    return "it is an encrypted block device; of encrypted disks only image files have layers";
  }
  if (attributeOf(childOf(disk, "driver"), "cache") !== "unsafe") return undefined;
  return (
    'its cache mode "unsafe" never makes a write durable, so that no recovery point would be ' +
    'true; set another in its XML, for example cache="none", and start the VM again'
  );
}

/** Of the disk; a layer in the clear on an encrypted image is another program's, and stays as it is. */
function readWholeEncryption(disk: XmlElement): DiskEncryption {
  const [encryption, ...below] = imagesOf(disk).map(readEncryption);
  if (encryption === undefined || encryption.kind !== "none") return encryption ?? { kind: "none" };
  if (below.every(({ kind }) => kind === "none")) return encryption;
  const reason = "it lies on an encrypted image and is not encrypted itself; merge them first";
  return { kind: "refused", reason };
}

function volumeOf(source: XmlElement | undefined): VolumeName | undefined {
  const pool = attributeOf(source, "pool");
  const volume = attributeOf(source, "volume");
  return pool === undefined || volume === undefined ? undefined : { pool, volume };
}

/** A disk and the images below it, as far as the XML has them. */
function imagesOf(disk: XmlElement): readonly XmlElement[] {
  const below = childOf(disk, "backingStore");
  return below === undefined ? [disk] : [disk, ...imagesOf(below)];
}

/** Files of a disk from the top down, as far as the XML names them. */
function chainOf(disk: XmlElement, volumes: VolumeImages): readonly string[] {
  const chain: string[] = [];
  for (const image of imagesOf(disk)) {
    const source = childOf(image, "source");
    const volume = volumeOf(source);
    const path =
      attributeOf(source, "file") ??
      attributeOf(source, "dev") ??
      (volume === undefined ? undefined : volumes.get(volumeKey(volume))?.path);
    if (path === undefined) break;
    chain.push(path);
  }
  return chain;
}
