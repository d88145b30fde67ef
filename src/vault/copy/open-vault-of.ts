/** The index of one of the two stores of a copy. */
import type { ObjectStore } from "#ports/object-store.ts";
import type { CopyRunOptions } from "#vault/copy-report.ts";
import { Vault } from "#vault/vault.ts";

/** Opens the vault in `store`; the caller disposes it. Errors: as `Vault.open`. */
export async function openVaultOf(
  options: Pick<CopyRunOptions, "keys" | "clock" | "random" | "cacheDirectory" | "signal">,
  store: ObjectStore,
): Promise<Vault> {
  const { keys, clock, random, cacheDirectory, signal } = options;
  const cache = cacheDirectory === undefined ? {} : { cacheDirectory };
  return await Vault.open({ store, keys, clock, random, ...cache }, signal);
}
