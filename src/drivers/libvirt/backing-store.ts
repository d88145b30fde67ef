/**
 * The images below a disk's as its XML names them. Only those of encrypted disks are named: no header
 * says which secret opens them. Internal to this folder.
 */
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import { encryptionXml, readEncryption } from "./disk-encryption.ts";
import { attributeOf, childOf, quoteXml, type XmlElement } from "./xml.ts";

/** An image file below another. */
export type ImageBelow = Pick<DiskLayer, "path" | "format" | "secretId">;

/** The element that names the images, from the top down, and says that there are no others. */
export function backingStoreXml(below: readonly ImageBelow[]): string {
  const [image, ...rest] = below;
  if (image === undefined) return "<backingStore/>";
  const sealed = image.secretId === undefined ? "" : encryptionXml(image.secretId);
  const source = `<source file=${quoteXml(image.path)}>${sealed}</source>`;
  const format = `<format type='${image.format}'/>`;
  return `<backingStore type='file'>${format}${source}${backingStoreXml(rest)}</backingStore>`;
}

/** Whether an element names these images and no others already, however it is written. */
export function isBackingStoreOf(
  element: XmlElement | undefined,
  below: readonly ImageBelow[],
): boolean {
  if (element === undefined) return false;
  const [image, ...rest] = below;
  const source = childOf(element, "source");
  if (image === undefined) return source === undefined;
  const encryption = readEncryption(element);
  const isSame =
    attributeOf(source, "file") === image.path &&
    attributeOf(childOf(element, "format"), "type") === image.format &&
    (encryption.kind === "luks" ? encryption.secretId : undefined) === image.secretId;
  return isSame && isBackingStoreOf(childOf(element, "backingStore"), rest);
}
