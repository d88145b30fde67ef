/** Layers as QEMU's tools are told to open them. */
import { imageKeyId } from "#drivers/disk/image-key.ts";
import { qemuFormat, type DiskLayer } from "./disk-layer.ts";

/** What is to be opened of a layer. */
export type OpenedLayer = Pick<DiskLayer, "path" | "format" | "secretId">;

/**
 * A file as a `json:` name of QEMU: the layer, which may be encrypted, on those of `below`, oldest
 * first; on nothing where there are none, whatever its header says.
 */
export function toLayerNode(layer: OpenedLayer, below: readonly OpenedLayer[] = []): string {
  let node: object | null = null;
  for (const each of [...below, layer]) node = toNode(each, node);
  return `json:${JSON.stringify(node)}`;
}

function toNode(layer: OpenedLayer, backing: object | null): object {
  const driver = qemuFormat(layer);
  const file = { driver: "file", filename: layer.path };
  const key = { "key-secret": imageKeyId };
  if (driver === "raw") return { driver, file };
  if (driver === "luks") return { driver, ...key, file };
  const encrypt = layer.secretId === undefined ? {} : { encrypt: { format: "luks", ...key } };
  return { driver, ...encrypt, file, backing };
}
