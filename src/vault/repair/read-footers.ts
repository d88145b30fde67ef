/** Reads packs that no index segment names, by their own footers; docs/design/vault-format.md §4. */
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { fromIndexColumns, type IndexPack, parsePackFooter } from "#formats/index-segment.ts";
import {
  mapPackName,
  mapPackPrefix,
  packName,
  packPrefix,
  parseStoreName,
} from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { assertContentName, openContainer } from "#vault/container/container-reader.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** Where packs are read. */
export interface FooterSource {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly index: BlockIndex;
  readonly signal?: AbortSignal | undefined;
}

/** A pack whose footer cannot be used. */
export interface UnusablePack {
  readonly name: string;
  readonly error: KluisError;
}

/** Names of packs and map packs that the store lists and no readable segment names. */
export async function listUnindexed(source: FooterSource): Promise<readonly string[]> {
  const { store, index, signal } = source;
  const listed = new Set<string>();
  for (const prefix of [packPrefix, mapPackPrefix]) {
    for await (const { name } of store.list(prefix, signal)) listed.add(name);
  }
  for await (const { head } of index.packExtents()) {
    listed.delete(head.type === "pack" ? packName(head.name) : mapPackName(head.name));
  }
  return [...listed].sort();
}

/**
 * Yields the tables of packs, each read whole and compared with its name; those that are damaged or
 * gone are told to `onUnusable`. Errors: those of the store.
 */
export async function* readFooters(
  source: FooterSource,
  names: readonly string[],
  onUnusable: (pack: UnusablePack) => void,
): AsyncGenerator<IndexPack> {
  for (const name of names) {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "pack" && parsed?.kind !== "map-pack") continue;
    source.signal?.throwIfAborted();
    try {
      const bytes = await source.store.get(name, undefined, source.signal);
      assertContentName(bytes, parsed.sha256, name);
      const type = parsed.kind === "pack" ? ("pack" as const) : ("mapPack" as const);
      const { footer } = openContainer(source.keys, { name, bytes, type }, { footerOnly: true });
      yield fromIndexColumns(parsePackFooter(footer, parsed.sha256));
    } catch (error) {
      source.signal?.throwIfAborted();
      const isUnusable = ["ObjectCorrupt", "ObjectNotFound", "KeyWrong"] as const;
      if (!isKluisError(error) || !isUnusable.some((code) => code === error.code)) throw error;
      onUnusable({ name, error });
    }
  }
}
