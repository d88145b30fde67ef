/** Which objects a store is expected to hold; docs/design/verify-and-heal.md. */
import { forEachBounded } from "#base/for-each-bounded.ts";
import { ledgerGenerationMax, type LedgerLine } from "#formats/ledger-part.ts";
import { parseStoreName } from "#formats/store-names.ts";
import {
  type LedgerContent,
  type LedgerDeps,
  type LedgerEntry,
  type LedgerPlace,
  type NewLine,
  putLedgerLines,
  readLedger,
  replacing,
} from "#vault/inventory/ledger.ts";

/** Compaction is of use from so many parts on. */
export const compactPartsMin = 16;
/** Parts that a compaction removes at once. */
const removalsInFlight = 16;

/** An object that was put. */
export interface StoredObject {
  readonly name: string;
  readonly sizeBytes: number;
  /** Of its content, hexadecimal, where that is not in its name. */
  readonly sha256?: string;
}

/** An object that is expected. */
export interface ExpectedObject extends StoredObject {
  /** Number of the part that named it first. */
  readonly number: number;
}

/** What the inventory says; parts that are bad or missing are told by `content`. */
export interface Inventory {
  readonly expected: ReadonlyMap<string, ExpectedObject>;
  /** Names that are no longer expected, whether or not they are still there. */
  readonly removed: ReadonlySet<string>;
  /** Largest number of a part; 0 where there is none. */
  readonly number: number;
  readonly content: LedgerContent;
}

/** Reads the inventory. Without keys its MACs are not checked. Errors: those of the store. */
export async function readInventory(place: LedgerPlace): Promise<Inventory> {
  const content = await readLedger(place, "inventory");
  const { expected, removed } = unite(content.parts.map(({ lines }) => lines));
  const number = content.parts.reduce((most, part) => Math.max(most, part.number), 0);
  return { expected, removed: new Set(removed.keys()), number, content };
}

/** What becomes part of the inventory. */
export interface InventoryChanges {
  /** Objects that are durable by now. */
  readonly added?: readonly StoredObject[];
  /** Names of objects that are about to be removed, or are gone. */
  readonly removed?: readonly string[];
  /** Hashes of parts, hexadecimal, that are missing or damaged and that nobody shall miss any more. */
  readonly replaced?: readonly string[];
  /** Parts that were put a moment ago and that the new one follows; else the newest are listed. */
  readonly after?: readonly LedgerEntry[] | undefined;
}

/**
 * Says that objects were added, or are removed from now on; durable on return. Call it after the puts
 * of what is added, and before objects are removed. Errors: those of the store.
 */
export async function putInventoryPart(
  deps: LedgerDeps,
  changes: InventoryChanges,
): Promise<readonly LedgerEntry[]> {
  const { added = [], removed = [], replaced = [], after } = changes;
  const lines: NewLine[] = [
    ...replaced.map((sha256) => () => ({ kind: "replaces" as const, generation: 0, sha256 })),
    ...added.map((object) => (number: number) => ({ kind: "add" as const, number, ...object })),
    ...removed.map((name) => () => ({ kind: "remove" as const, generation: 0, name })),
  ];
  return await putLedgerLines(deps, "inventory", { lines, ...(after && { after }) });
}

/**
 * Puts what all parts together say into new ones, and removes those. Any number of processes may do
 * this at once, beside any other use; after a crash both are there and say the same.
 *
 * Nothing is done where there are few parts, or where one is damaged or missing: it is first to be
 * repaired. Returns how many parts were removed. Errors: those of the store.
 */
export async function compactInventory(
  deps: LedgerDeps,
  options: { readonly partsMin?: number } = {},
): Promise<number> {
  const { store, keys, signal } = deps;
  const place = { store, vaultId: keys.vaultId, keys, signal };
  const content = await readLedger(place, "inventory");
  const { parts, bad, missing } = content;
  const isWhole = bad.length === 0 && missing.length === 0;
  if (!isWhole || parts.length < (options.partsMin ?? compactPartsMin)) return 0;
  const { expected, removed } = unite(parts.map(({ lines }) => lines));
  const locked = await findLockedSegments(deps, removed.keys());
  const lines: LedgerLine[] = [
    ...replacing(parts),
    ...olderReplacements(parts.map((part) => part.lines)),
    ...[...removed]
      .filter(([name, generation]) => generation < ledgerGenerationMax || locked.has(name))
      .map(([name, generation]) => ({
        kind: "remove" as const,
        generation: Math.min(generation + 1, ledgerGenerationMax),
        name,
      })),
    ...[...expected.values()].map((object) => ({ kind: "add" as const, ...object })),
  ];
  await putLedgerLines(deps, "inventory", { after: parts, lines: lines.map((line) => () => line) });
  await forEachBounded(parts, removalsInFlight, ({ name }) => store.remove(name, signal));
  return parts.length;
}

/**
 * Segments that were replaced and that the store keeps for their locks: they may be damaged, and are
 * not to be missed for as long as they are there.
 */
async function findLockedSegments(
  { store, signal }: LedgerDeps,
  removed: Iterable<string>,
): Promise<ReadonlySet<string>> {
  const locked = new Set<string>();
  if (store.locks === undefined) return locked;
  for (const name of removed) {
    if (parseStoreName(name)?.kind !== "index-segment") continue;
    if ((await store.stat(name, signal)) !== undefined) locked.add(name);
  }
  return locked;
}

function* olderReplacements(parts: readonly (readonly LedgerLine[])[]): Generator<LedgerLine> {
  for (const lines of parts) {
    for (const line of lines) {
      if (line.kind !== "replaces" || line.generation >= ledgerGenerationMax) continue;
      yield { ...line, generation: line.generation + 1 };
    }
  }
}

/** The union of parts: whatever a part removes is not expected. Generations are the youngest. */
function unite(parts: readonly (readonly LedgerLine[])[]): {
  readonly expected: Map<string, ExpectedObject>;
  readonly removed: Map<string, number>;
} {
  const expected = new Map<string, ExpectedObject>();
  const removed = new Map<string, number>();
  for (const lines of parts) {
    for (const line of lines) {
      if (line.kind === "remove") {
        const known = removed.get(line.name) ?? ledgerGenerationMax;
        removed.set(line.name, Math.min(known, line.generation));
      } else if (line.kind === "add") {
        const { kind: _, ...object } = line;
        const known = expected.get(line.name);
        if (known === undefined || known.number > line.number) expected.set(line.name, object);
      }
    }
  }
  for (const name of removed.keys()) expected.delete(name);
  return { expected, removed };
}
