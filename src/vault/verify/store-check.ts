/** Compares what a store lists with its inventory; needs no key. docs/design/verify-and-heal.md. */
import { toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { type Inventory, readInventory } from "#vault/inventory/inventory.ts";
import type { LedgerPlace } from "#vault/inventory/ledger.ts";
import { type Damage, verdictOf } from "#vault/verify/damage.ts";
import { checkKeyRecords } from "#vault/verify/key-record-check.ts";

/** Times that the inventory is read again because an object is missing. */
const rereadsMax = 16;

/** What a store holds by its own listing, and what it should hold. */
export interface StoreState {
  /** Sizes of all objects whose names a vault may have. */
  readonly listed: ReadonlyMap<string, number>;
  readonly inventory: Inventory;
  /** Packs, map packs, segments and manifests that no part of the inventory names. */
  readonly unnamed: readonly string[];
  /** Objects that are listed with another size than they were put with. */
  readonly resized: ReadonlySet<string>;
  /** Whether an object that is gone was removed on purpose, by what the inventory says now. */
  wasRemoved(name: string): Promise<boolean>;
}

/**
 * Lists the store and reads the inventory, and notes as damage what is missing or of another size, and
 * parts that are missing, changed or forged. Errors: those of the store where it cannot be listed.
 */
export async function checkStore(place: LedgerPlace, damage: Damage): Promise<StoreState> {
  const listed = await listObjects(place.store, place.signal);
  const removals = new Removals(place);
  const inventory = await removals.read();
  noteParts(inventory, damage);
  const epoch = inventory.content.parts.reduce((most, part) => Math.max(most, part.epoch), 0);
  await checkKeyRecords(place, { names: listed.keys(), epoch }, damage);
  const resized = new Set<string>();
  for (const { name, sizeBytes } of inventory.expected.values()) {
    if (listed.get(name) === sizeBytes) continue;
    const found = await lookAgain(place, name);
    if (found.kind === "unknown") {
      damage.addObject({ name, verdict: verdictOf(found.error), reason: found.error.message });
    } else if (found.info === undefined) {
      if (await removals.wasRemoved(name)) continue;
      damage.addObject({ name, verdict: "damaged", reason: missingReason });
      addPack(damage, name);
    } else if (found.info.sizeBytes !== sizeBytes) {
      resized.add(name);
      const reason = `it has ${found.info.sizeBytes} bytes, and was put with ${sizeBytes}`;
      damage.addObject({ name, verdict: "damaged", reason });
    }
  }
  const unnamed = [...listed.keys()].filter((name) => {
    return isInventoried(name) && !inventory.expected.has(name) && !inventory.removed.has(name);
  });
  const wasRemoved = (name: string): Promise<boolean> => removals.wasRemoved(name);
  return { listed, inventory, unnamed, resized, wasRemoved };
}

const missingReason = "the inventory names it, and it is not in the store";

/** Whether objects of such a name belong into the inventory. */
export function isInventoried(name: string): boolean {
  const kind = parseStoreName(name)?.kind;
  return kind === "pack" || kind === "map-pack" || kind === "index-segment" || kind === "manifest";
}

async function listObjects(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<Map<string, number>> {
  const listed = new Map<string, number>();
  for await (const { name, sizeBytes } of store.list("", signal)) {
    if (parseStoreName(name) !== undefined) listed.set(name, sizeBytes);
  }
  return listed;
}

function noteParts({ content }: Inventory, damage: Damage): void {
  for (const { name, error } of content.bad) {
    damage.addObject({ name, verdict: verdictOf(error), reason: error.message });
  }
  for (const sha256 of content.missing) {
    const reason = "other parts of the inventory name it, and it is not in the store";
    damage.addObject({ name: `inventory/*-${sha256}`, verdict: "damaged", reason });
  }
}

function addPack(damage: Damage, name: string): void {
  const parsed = parseStoreName(name);
  if (parsed?.kind === "pack" || parsed?.kind === "map-pack") {
    damage.addPack(parsed.sha256, "damaged");
  }
}

type Found =
  | { readonly kind: "known"; readonly info: ObjectInfo | undefined }
  | { readonly kind: "unknown"; readonly error: KluisError };

/** A listing is no snapshot in time, and may have left an object out. */
async function lookAgain(place: LedgerPlace, name: string): Promise<Found> {
  try {
    return { kind: "known", info: await place.store.stat(name, place.signal) };
  } catch (error) {
    place.signal?.throwIfAborted();
    if (!isKluisError(error)) throw error;
    return { kind: "unknown", error };
  }
}

/** What was removed on purpose; the inventory is read again where it does not say so yet. */
class Removals {
  readonly #place: LedgerPlace;
  #removed: ReadonlySet<string> = new Set();
  #expected: ReadonlySet<string> = new Set();
  #rereads = 0;

  constructor(place: LedgerPlace) {
    this.#place = place;
  }

  async read(): Promise<Inventory> {
    const inventory = await readInventory(this.#place);
    this.#removed = inventory.removed;
    this.#expected = new Set(inventory.expected.keys());
    return inventory;
  }

  /** Also where it is in no part any more: compaction has forgotten it since. */
  async wasRemoved(name: string): Promise<boolean> {
    if (this.#removed.has(name)) return true;
    if (this.#rereads >= rereadsMax) return false;
    this.#rereads++;
    const wasExpected = this.#expected.has(name);
    await this.read();
    return this.#removed.has(name) || (wasExpected && !this.#expected.has(name));
  }
}

/**
 * The name's hash, or the one that the inventory has of a manifest; `undefined` where there is none, and
 * where nobody minds the content: of a segment that was replaced and is there for its lock alone.
 */
export function expectedHash(state: StoreState, name: string): string | undefined {
  const parsed = parseStoreName(name);
  if (parsed === undefined) return undefined;
  if (parsed.kind === "index-segment" && state.inventory.removed.has(name)) return undefined;
  return "sha256" in parsed ? toHex(parsed.sha256) : state.inventory.expected.get(name)?.sha256;
}
