/** Damages each object of a small vault in turn, and counts what a check without a key names. */
import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { flipBit } from "#testing/damage.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault, testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { verifyStore } from "#vault/verify-store.ts";

/** Objects of a store by name. */
export type Objects = ReadonlyMap<string, Uint8Array>;

/** How many cases there were, and which were not named. */
export interface KeylessCount {
  cases: number;
  readonly unnamed: string[];
}

const ways = ["removed", "cut", "lengthened", "changed", "emptied", "replaced"] as const;

/** A vault of two items and four points. */
export async function buildSmallVault(random: SeededRandom): Promise<Objects> {
  const store = createMemoryStore();
  for (let number = 1; number <= 4; number++) {
    await using vault = await openTestVault({ store });
    const disk = new MemoryDisk(600 * 1024);
    disk.write(4096 * number, random.bytes(3000));
    await backUp(vault, { itemId: `disk ${number % 2}`, number, disks: [disk] });
  }
  const objects = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) objects.set(name, await store.get(name));
  return objects;
}

/** Damages every object of a small vault in every way, and checks without a key. */
export async function countKeyless(seed: string): Promise<KeylessCount> {
  const random = createSeededRandom(seed);
  const objects = await buildSmallVault(random);
  return await countDamage(objects, { vaultId: testKeys.vaultId, random });
}

/** Damages every object that `isHarmed` in every way, and checks without a key. */
export async function countDamage(
  objects: Objects,
  options: {
    readonly vaultId: Uint8Array;
    readonly random: SeededRandom;
    readonly isHarmed?: (name: string) => boolean;
  },
): Promise<KeylessCount> {
  const { vaultId, random, isHarmed = () => true } = options;
  const newest = [...objects.keys()]
    .filter((name) => name.startsWith("inventory/"))
    .sort()
    .at(-1);
  const count: KeylessCount = { cases: 0, unnamed: [] };
  for (const [name, bytes] of objects) {
    if (!isHarmed(name)) continue;
    for (const way of ways) {
      // Nothing names the newest part of the inventory; see docs/design/verify-and-heal.md.
      if (way === "removed" && name === newest) continue;
      const others = [...objects.values()].filter((other) => other !== bytes);
      const damaged = damage(bytes, way, { random, others });
      const changed = new Map(objects);
      if (damaged === undefined) changed.delete(name);
      else changed.set(name, damaged);
      count.cases++;
      if (!(await isNamed(changed, name, vaultId))) count.unnamed.push(`${name} ${way}`);
    }
  }
  return count;
}

async function isNamed(objects: Objects, name: string, vaultId: Uint8Array): Promise<boolean> {
  const report = await verifyStore({
    store: createMemoryStore(objects),
    vaultId,
    depth: "objects",
    clock: systemClock,
  });
  const isOnlyThis = report.badObjects.every((bad) => bad.name.slice(-64) === name.slice(-64));
  return report.verdict === "damaged" && report.badObjects.length > 0 && isOnlyThis;
}

function damage(
  bytes: Uint8Array,
  way: (typeof ways)[number],
  from: { readonly random: SeededRandom; readonly others: readonly Uint8Array[] },
): Uint8Array | undefined {
  const { random, others } = from;
  switch (way) {
    case "cut":
      return bytes.slice(0, random.integer(1, bytes.length - 1));
    case "lengthened":
      return Uint8Array.from([...bytes, ...random.bytes(random.integer(1, 40))]);
    case "changed":
      return flipBit(bytes, random.integer(0, bytes.length * 8 - 1));
    case "emptied":
      return new Uint8Array(0);
    case "replaced":
      return random.pick(others);
    case "removed":
    default:
      return undefined;
  }
}
