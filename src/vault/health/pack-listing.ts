/** The packs that a store lists, with their sizes: 17 bytes a place, whatever the vault's size. */
import { asBuffer } from "#base/bytes.ts";
import { mapPackPrefix, packPrefix, parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";

/** Share of places that may be taken before the table grows. */
const loadMax = 0.6;
const placesMin = 1024;

/**
 * Sizes by the first 63 bits of a pack's name, in open addressing. Two packs of one vault agree in
 * them with probability N² / 2^64: below 10^-7 for 40 TiB.
 */
export class PackListing {
  #keys = new BigUint64Array(placesMin);
  #sizes = new Float64Array(placesMin);
  #isTaken = new Uint8Array(placesMin);
  #count = 0;
  #taken = 0;

  /** Packs that nobody has asked for with {@link take}. */
  get untaken(): number {
    return this.#count - this.#taken;
  }

  /** Notes a pack, before the first is taken; `name` has 32 bytes. */
  add(name: Uint8Array, sizeBytes: number): void {
    if (this.#count + 1 > this.#keys.length * loadMax) this.#grow();
    if (this.#insert(keyOf(name), sizeBytes)) this.#count++;
  }

  /** Whether the store listed a pack. */
  has(name: Uint8Array): boolean {
    const key = keyOf(name);
    return this.#keys[this.#find(key)] === key;
  }

  /** The size of a pack, which is known from now on; `undefined` where the store did not list it. */
  take(name: Uint8Array): number | undefined {
    const key = keyOf(name);
    const place = this.#find(key);
    if (this.#keys[place] !== key) return undefined;
    if (this.#isTaken[place] === 0) this.#taken++;
    this.#isTaken[place] = 1;
    return this.#sizes[place];
  }

  #insert(key: bigint, sizeBytes: number): boolean {
    const place = this.#find(key);
    const isNew = this.#keys[place] === 0n;
    this.#keys[place] = key;
    this.#sizes[place] = sizeBytes;
    return isNew;
  }

  /** The place of a key, or the free one where it belongs. */
  #find(key: bigint): number {
    const mask = this.#keys.length - 1;
    let place = Number(key & BigInt(mask));
    while (this.#keys[place] !== 0n && this.#keys[place] !== key) place = (place + 1) & mask;
    return place;
  }

  #grow(): void {
    const [keys, sizes] = [this.#keys, this.#sizes];
    this.#keys = new BigUint64Array(keys.length * 2);
    this.#sizes = new Float64Array(keys.length * 2);
    this.#isTaken = new Uint8Array(keys.length * 2);
    for (const [place, key] of keys.entries()) {
      if (key !== 0n) this.#insert(key, sizes[place] as number);
    }
  }
}

/** Lists the packs and map packs of a store. Errors: those of the store. */
export async function listPacks(store: ObjectStore, signal?: AbortSignal): Promise<PackListing> {
  const listing = new PackListing();
  for (const prefix of [packPrefix, mapPackPrefix]) {
    for await (const { name, sizeBytes } of store.list(prefix, signal)) {
      const parsed = parseStoreName(name);
      if (parsed?.kind === "pack" || parsed?.kind === "map-pack") {
        listing.add(parsed.sha256, sizeBytes);
      }
    }
  }
  return listing;
}

/** Never 0, which marks a free place. */
function keyOf(name: Uint8Array): bigint {
  return asBuffer(name).readBigUInt64LE(0) | (1n << 63n);
}
