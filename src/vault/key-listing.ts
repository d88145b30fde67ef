/** The keys of a vault as people see them, from what shows without a key. */
import { bytesEqual } from "#base/bytes.ts";
import { isWrapped, type SlotType } from "#formats/key-slot.ts";
import { slotName } from "#formats/store-names.ts";
import { isListed } from "#vault/keys/open-ring.ts";
import { survivesHost } from "#vault/surviving-keys.ts";
import type { VaultKeyListing } from "#vault/vault-files.ts";

/** A slot for people. */
export interface DescribedKey {
  readonly name: string;
  readonly type: SlotType;
  /** Whether the newest key record lists it; yes where none can be read. */
  readonly isValid: boolean;
  readonly survivesHost: boolean;
  /** The version of the provider's key that wraps it. */
  readonly key?: string;
  /** Whether a rotation wraps it with a newer version. */
  readonly follows?: boolean;
}

/** All slots that can be read. */
export function describeVaultKeys({ listing, records }: VaultKeyListing): readonly DescribedKey[] {
  return listing.slots.map(({ name, hash, slot }) => {
    const { kdf, type } = slot;
    return {
      name,
      type,
      isValid: isListed(records, hash),
      survivesHost: survivesHost(slot),
      ...(isWrapped(kdf) ? { key: kdf.key, follows: kdf.follow } : {}),
    };
  });
}

/** Names of slots that the newest record lists and that are neither readable nor known as damaged. */
export function missingSlots({ listing, records }: VaultKeyListing): readonly string[] {
  const hashes = listing.slots.map(({ hash }) => hash);
  return (records.newest?.slots ?? [])
    .filter(({ slot }) => !hashes.some((hash) => bytesEqual(hash, slot)))
    .map(({ slot }) => slotName(slot))
    .filter((name) => ![...listing.damaged, ...listing.newer].includes(name));
}
