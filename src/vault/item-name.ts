/** The keyed name under which a protected item's manifests lie; docs/design/vault-format.md §2. */
import { toItemText, itemHashBytes } from "#formats/store-names.ts";
import { computeId } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** 32 hex digits that say nothing about `itemId` without the key. */
export function toItemName(keys: VaultKeys, itemId: string): string {
  const hash = computeId(keys.itemNameKey, Buffer.from(itemId.normalize("NFC"), "utf8"));
  return toItemText(hash.subarray(0, itemHashBytes));
}
