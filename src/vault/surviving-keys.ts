/** Which keys outlive the host that makes the backups; docs/design/keys.md. */
import { isWrapped, type KeySlot } from "#formats/key-slot.ts";

/**
 * Whether the way in does not need the host: what people keep, and keys in a key vault. Key files,
 * the platform key and local customer keys count as the host's, wherever they may lie.
 */
export function survivesHost(slot: KeySlot): boolean {
  if (slot.type === "passphrase" || slot.type === "recovery") return true;
  return slot.type === "customer-key" && isWrapped(slot.kdf) && slot.kdf.key.startsWith("https://");
}
