/** How QEMU shall open an image: layer by layer, as it was looked at, and with large index reads. */
import { imageKeyId } from "./image-key.ts";
import type { ImageInfo, ImageLayer } from "./image-info.ts";

/**
 * QEMU reads the index of a qcow2 in pieces of this size (4 KiB by default). Asking for the extents
 * of 4 TiB with 2,621 scattered pages took 1.9 s of CPU by default and 0.26 s with this.
 */
const INDEX_PIECE_BYTES = 128 * 1024;

/** Longest chain that is named layer by layer; a longer one QEMU finds itself. */
const NODE_LAYERS_MAX = 200;

/**
 * The image as a `json:` file name of QEMU, alone or with everything below it. `undefined` where a
 * layer is not a raw, LUKS or qcow2 file or device: QEMU must find out itself then. Encrypted layers are
 * opened by the passphrase of {@link imageKeyId}, where there is one (`isKeyed`).
 */
export function toImageNode(
  info: ImageInfo,
  options: { readonly withBacking: boolean; readonly isKeyed?: boolean },
): string | undefined {
  const layers = options.withBacking ? info.layers : info.layers.slice(0, 1);
  if (layers.length > NODE_LAYERS_MAX) return undefined;
  let node: object | null = null;
  for (const layer of layers.toReversed()) {
    const isSealed = layer.isEncrypted === true || layer.format === "luks";
    if (isSealed && options.isKeyed !== true) return undefined;
    const above: object | undefined = toNode(layer, node);
    if (above === undefined) return undefined;
    node = above;
  }
  return `json:${JSON.stringify(node)}`;
}

function toNode(layer: ImageLayer, backing: object | null): object | undefined {
  if (!layer.file.startsWith("/") || layer.protocol === undefined) return undefined;
  const file = { driver: layer.protocol, filename: layer.file };
  const key = { "key-secret": imageKeyId };
  if (layer.format === "raw") return backing === null ? { driver: "raw", file } : undefined;
  if (layer.format === "luks") {
    return backing === null ? { driver: "luks", ...key, file } : undefined;
  }
  if (layer.format !== "qcow2" || layer.clusterBytes === undefined) return undefined;
  const pieceBytes = Math.min(INDEX_PIECE_BYTES, layer.clusterBytes);
  const encrypt = layer.isEncrypted === true ? { encrypt: { format: "luks", ...key } } : {};
  return { driver: "qcow2", ...encrypt, "l2-cache-entry-size": pieceBytes, file, backing };
}
