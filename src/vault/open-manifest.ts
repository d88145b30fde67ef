/** Opens the manifest of a recovery point; docs/design/vault-format.md §7. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { type Manifest, parseManifest } from "#formats/manifest.ts";
import { pointName } from "#formats/store-names.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import { toItemName } from "#vault/item-name.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/**
 * The manifest in `bytes`, which are those of the object of `point`. ObjectCorrupt (never) where
 * they are damaged or the manifest of another point; KeyWrong (after-change), StoreFormatNewer.
 */
export function openManifest(
  keys: VaultKeys,
  bytes: Uint8Array,
  point: { readonly item: string; readonly pointId: string },
): Manifest {
  const name = pointName(point.item, point.pointId);
  const { content } = openContainer(keys, { name, bytes, type: "manifest" });
  const manifest = parseManifest(content, name);
  const isAtPlace =
    manifest.pointId === point.pointId && toItemName(keys, manifest.itemId) === point.item;
  if (isAtPlace) return manifest;
  throw new KluisError(
    "ObjectCorrupt",
    `Cannot read "${name}": it is the manifest of another recovery point`,
    { details: { object: name } },
  );
}

/**
 * Whether {@link openManifest} could not use the bytes: they are damaged, or sealed under an epoch or by
 * a version that is not known here. A flipped bit of their header looks like any of the three, so none
 * of them may end what is done for other recovery points.
 */
export function isUnreadableManifest(error: unknown): error is KluisError {
  return (
    isKluisError(error, "ObjectCorrupt") ||
    isKluisError(error, "KeyWrong") ||
    isKluisError(error, "StoreFormatNewer")
  );
}
