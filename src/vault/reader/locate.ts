/** Finds blocks and nodes by id. */
import { toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { indexSegmentName, mapPackName, packName, parseStoreName } from "#formats/store-names.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";

/** Packs that a process avoids; with so many lost it no longer looks for copies. */
const avoidedMax = 256;

/** Runs `read` again while its errors lead to other copies; see {@link Locator.avoid}. */
export async function withCopies<T>(locator: Locator, read: () => Promise<T>): Promise<T> {
  for (;;) {
    const before = locator.avoided;
    try {
      return await read();
    } catch (error) {
      if (!(await locator.avoid(error, before))) throw error;
    }
  }
}

/** A pack that is avoided, from when `done` resolves. */
interface Avoidance {
  readonly pack: Uint8Array;
  /** From 0. */
  readonly order: number;
  readonly done: Promise<void>;
}

/**
 * Finds what the index of this host holds, and what other writers put since it was opened: all that
 * a manifest reaches was in index segments before the manifest was.
 */
export class Locator {
  readonly #index: BlockIndex;
  readonly #listSegments: () => Promise<Iterable<Uint8Array>>;
  /** Packs that could not be read, by name. */
  readonly #avoided = new Map<string, Avoidance>();
  #inEffect = 0;
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

  /** How many packs the index avoids by now; those that it is about to avoid do not count yet. */
  get avoided(): number {
    return this.#inEffect;
  }

  /**
   * Says that reading has failed with `error`. True where that may be different next time: the pack is
   * avoided from now on, and what others have put since is taken in, a copied block for example.
   *
   * @param before Packs that were avoided when the reading began.
   */
  async avoid(error: unknown, before: number): Promise<boolean> {
    if (!isKluisError(error, "ObjectNotFound") && !isKluisError(error, "ObjectCorrupt"))
      return false;
    const object = String(error.details["object"] ?? "");
    const parsed = parseStoreName(object);
    if (parsed?.kind !== "pack" && parsed?.kind !== "map-pack") return false;
    let avoidance = this.#avoided.get(object);
    if (avoidance === undefined) {
      if (this.#avoided.size >= avoidedMax) return false;
      const last = [...this.#avoided.values()].at(-1);
      const order = this.#avoided.size;
      const done = this.#startToAvoid(last?.done).then(
        () => {
          this.#inEffect = order + 1;
        },
        (failure: unknown) => {
          this.#avoided.delete(object);
          throw failure;
        },
      );
      avoidance = { pack: parsed.sha256, order, done };
      this.#avoided.set(object, avoidance);
    }
    await avoidance.done;
    // Who began before others met the damage has not looked elsewhere yet.
    return avoidance.order >= before;
  }

  /** Runs after the one before, and with all packs that are avoided by then. */
  async #startToAvoid(last: Promise<void> | undefined): Promise<void> {
    await last;
    const packs = [...this.#avoided.values()].map(({ pack }) => pack);
    await this.#index.setDistrusted("unread", packs);
    const before = this.#index.segmentCount;
    const names = [...(await this.#listSegments())];
    await this.#index.refresh(names);
    this.#index.retire(names, before);
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
