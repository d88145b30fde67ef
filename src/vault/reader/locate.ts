/** Finds blocks and nodes by id. */
import { toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";

/**
 * Finds what the index of this host holds, and what other writers put since it was opened: all that
 * a manifest reaches was in index segments before the manifest was.
 */
export class Locator {
  readonly #index: BlockIndex;
  readonly #listSegments: () => Promise<Iterable<Uint8Array>>;
  #isCurrent = false;
  #refreshing: Promise<void> = Promise.resolve();

  /** @param listSegments Names of all index segments that the store holds now. */
  constructor(index: BlockIndex, listSegments: () => Promise<Iterable<Uint8Array>>) {
    this.#index = index;
    this.#listSegments = listSegments;
  }

  /** Says that something was read which may be newer than the index. */
  expectMore(): void {
    this.#isCurrent = false;
  }

  /** Takes in what was put before the last {@link expectMore}. Errors: those of the store. */
  refresh(): Promise<void> {
    if (this.#isCurrent) return this.#refreshing;
    this.#isCurrent = true;
    const before = this.#refreshing;
    this.#refreshing = this.#refreshAfter(before);
    return this.#refreshing;
  }

  /**
   * Runs `read`, and once more with the index of now where an object was missing: a collection has
   * moved what was in it. Errors: those of `read` and of the store.
   */
  async withMoved<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (!isKluisError(error, "ObjectNotFound")) throw error;
      const names = [...(await this.#listSegments())];
      await this.#index.refresh(names);
      this.#index.retire(names);
      return await read();
    }
  }

  /** Where a block or node lies. BlockMissing (never) where no index segment names it. */
  async locate(id: Uint8Array): Promise<BlockLocation> {
    const known = await this.#index.locate(id);
    if (known !== undefined) return known;
    await this.refresh();
    const fresh = await this.#index.locate(id);
    if (fresh !== undefined) return fresh;
    const [lost] = this.#index.lost;
    const why =
      lost === undefined ? "" : `; index segment "${indexSegmentName(lost.name)}" cannot be read`;
    const block = toHex(id);
    const details = { block, ...(lost && { object: indexSegmentName(lost.name) }) };
    throw new KluisError("BlockMissing", `Cannot read block "${block}": no index names it${why}`, {
      details,
    });
  }

  async #refreshAfter(before: Promise<void>): Promise<void> {
    await Promise.allSettled([before]);
    try {
      await this.#index.refresh(await this.#listSegments());
    } catch (error) {
      this.#isCurrent = false;
      throw error;
    }
  }
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
