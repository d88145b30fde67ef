/**
 * The inventory that a copy has of its own: which objects were brought there, so that a missing one shows
 * without a key; docs/design/redundancy.md.
 */
import { isKluisError } from "#base/kluis-error.ts";
import { parseStoreName } from "#formats/store-names.ts";
import {
  compactInventory,
  type Inventory,
  putInventoryPart,
  readInventory,
  type StoredObject,
} from "#vault/inventory/inventory.ts";
import type { LedgerDeps } from "#vault/inventory/ledger.ts";

/**
 * Parts are put together when there are so many, and where that could not be done, when there are twice
 * as many, and so on: a store that refuses removals gets few parts that say everything again.
 */
export const copyPartsMin = 64;

/** Collects what was brought and says it in parts; one for each run. */
export class CopyInventory {
  readonly #deps: LedgerDeps;
  readonly #before: Inventory;
  readonly #told = new Set<string>();
  #untold: StoredObject[] = [];
  #parts: number;

  private constructor(deps: LedgerDeps, before: Inventory) {
    this.#deps = deps;
    this.#before = before;
    this.#parts = partsOf(before);
  }

  /** Reads what the copy's inventory says. Errors: those of the store. */
  static async open(deps: LedgerDeps): Promise<CopyInventory> {
    const { keys } = deps;
    return new CopyInventory(deps, await readInventory({ ...deps, vaultId: keys.vaultId }));
  }

  /** Whether the object is named, is noted to be, or was removed on purpose. */
  knows(name: string): boolean {
    const { expected, removed } = this.#before;
    return this.#told.has(name) || expected.has(name) || removed.has(name);
  }

  /**
   * Whether a listing has, in the sizes that they were put with, all packs and segments that were brought, and
   * the inventory can say so. Then a point that was walked when it was brought is as whole as it was then.
   */
  isAllIn(sizes: ReadonlyMap<string, number>): boolean {
    const { expected, content } = this.#before;
    if (content.bad.length + content.missing.length > 0) return false;
    for (const { name, sizeBytes } of expected.values()) {
      if (parseStoreName(name)?.kind === "manifest") continue;
      if (sizes.get(name) !== sizeBytes) return false;
    }
    return true;
  }

  /** Whether an earlier run has named the object. */
  expects(name: string): boolean {
    return this.#before.expected.has(name);
  }

  /** Notes an object that is durable, unless it is known. */
  note(object: StoredObject): void {
    if (this.knows(object.name)) return;
    this.#told.add(object.name);
    this.#untold.push(object);
  }

  /** Says what was noted; durable on return. Errors: those of the store. */
  async write(): Promise<void> {
    const added = this.#untold;
    this.#untold = [];
    this.#parts += (await putInventoryPart(this.#deps, { added })).length;
  }

  /** Puts the parts together where there are many. Errors: those of the store, but StoreDenied and ObjectLocked. */
  async compact(): Promise<void> {
    let due = copyPartsMin;
    while (due <= partsOf(this.#before)) due *= 2;
    if (this.#parts < due) return;
    try {
      await compactInventory(this.#deps, { partsMin: copyPartsMin });
    } catch (error) {
      // Who may only add keeps the parts, which say the same and cost reading them.
      const isKept = isKluisError(error, "StoreDenied") || isKluisError(error, "ObjectLocked");
      if (!isKept) throw error;
    }
  }
}

function partsOf({ content }: Inventory): number {
  return content.parts.length + content.bad.length;
}
