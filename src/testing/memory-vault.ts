/** The one test constructor of a vault: in memory, with fixed keys unless told otherwise. */
import { systemClock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { deriveVaultKeys, type VaultKeys } from "#vault/keys/vault-keys.ts";
import type { FlushLimits } from "#vault/limits.ts";
import { Vault } from "#vault/vault.ts";

/** Keys that any test may use; the content of a test vault is no secret. */
export const testKeys: VaultKeys = deriveVaultKeys(new Uint8Array(16).fill(7), [
  { epoch: 1, masterKey: new Uint8Array(32).fill(9) },
]);

/** Opens a vault on `store`; a new empty one in memory by default. One worker unless told. */
export function openTestVault(
  options: {
    readonly store?: ObjectStore;
    readonly keys?: VaultKeys;
    readonly workers?: number;
    readonly cacheDirectory?: string;
    readonly flushLimits?: FlushLimits;
    readonly startThread?: "reading" | "writing";
    readonly withoutIndex?: boolean;
  } = {},
): Promise<Vault> {
  return Vault.open({
    store: options.store ?? createMemoryStore(),
    keys: options.keys ?? testKeys,
    clock: systemClock,
    random: systemRandom,
    workers: options.workers ?? 1,
    withoutIndex: options.withoutIndex ?? false,
    ...(options.cacheDirectory === undefined ? {} : { cacheDirectory: options.cacheDirectory }),
    ...(options.flushLimits === undefined ? {} : { flushLimits: options.flushLimits }),
    ...(options.startThread === undefined ? {} : { startThread: options.startThread }),
  });
}
