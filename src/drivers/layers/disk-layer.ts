/** One image file of a disk's chain. */
export interface DiskLayer {
  /** 0 for the original image, then upwards; part of the names of nodes and files. */
  readonly number: number;
  readonly path: string;
  readonly format: "qcow2" | "raw";
  /** Where its content is encrypted by LUKS: names the passphrase; the same for all layers of a disk. */
  readonly secretId?: string;
}

/** QEMU's name of a layer's format: a raw image that is encrypted is LUKS. */
export function qemuFormat(
  layer: Pick<DiskLayer, "format" | "secretId">,
): "qcow2" | "raw" | "luks" {
  return layer.format === "raw" && layer.secretId !== undefined ? "luks" : layer.format;
}
