/** Finds blocks and nodes by id. */
import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { mapPackName, packName } from "#formats/store-names.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";

/** Where a block or node lies. BlockMissing (never) where no index segment names it. */
export async function locate(index: BlockIndex, id: Uint8Array): Promise<BlockLocation> {
  const location = await index.locate(id);
  if (location !== undefined) return location;
  throw new KluisError("BlockMissing", `Cannot read block "${toHex(id)}": no index names it`, {
    details: { block: toHex(id) },
  });
}

/** The object that holds a location. */
export function objectNameOf(location: BlockLocation): string {
  const { pack } = location;
  return pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
}

/** A name for the frame of a location, unique in the vault. */
export function frameKeyOf(location: BlockLocation): string {
  return `${objectNameOf(location)}:${location.frameOffsetBytes}`;
}
