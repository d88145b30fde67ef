/**
 * Scrub: checks all objects of a vault bit by bit, within a budget, and remembers in the vault what
 * was checked when, so that any host goes on where the last one ended; docs/design/verify-and-heal.md.
 */
import { fromHex } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import {
  type CheckedRange,
  compactFindings,
  putFindings,
  readFindings,
} from "#vault/inventory/findings.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { type BadObject, Damage, type Verdict } from "#vault/verify/damage.ts";
import { readChecked } from "#vault/verify/read-object.ts";
import {
  measureAges,
  planScrub,
  type ScrubAges,
  type ScrubObject,
} from "#vault/verify/scrub-plan.ts";
import {
  checkStore,
  expectedHash,
  isInventoried,
  type StoreState,
} from "#vault/verify/store-check.ts";

/** Objects after which what was checked is noted: a scrub that is killed loses no more than these. */
const objectsPerRange = 4096;

/** What to scrub, and how much. */
export interface ScrubOptions {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly clock: Clock;
  /** It ends with the object that reaches either. */
  readonly budget: { readonly bytes: number; readonly durationMs: number };
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** What a scrub has found. */
export interface ScrubReport extends ScrubAges {
  /** The worst of what was looked at in this run. */
  readonly verdict: Verdict;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly objectsListed: number;
  readonly bytesListed: number;
  readonly badObjects: readonly BadObject[];
  readonly badObjectsOmitted: number;
  /** Objects that earlier checks found damaged and that no later one found whole. */
  readonly damagedBefore: number;
  readonly durationMs: number;
}

/**
 * Runs one scrub. Every run also compares the listing with the inventory, which reads no object.
 * Errors: those of the store where it cannot be listed or the findings cannot be put; Cancelled.
 */
export async function scrubVault(options: ScrubOptions): Promise<ScrubReport> {
  const { store, keys, clock, signal } = options;
  const startMs = clock.monotonicMs();
  const place = { store, keys, vaultId: keys.vaultId, signal };
  const before = await readFindings(place);
  const damage = new Damage();
  const state = await checkStore(place, damage);
  const objects = listScrubbable(state);
  const run = new ScrubRun(options, { state, damage, before: before.damaged });
  await run.check(planScrub(objects, before.checked), startMs);
  await compactFindings({ store, keys, signal });
  const after = await readFindings(place);
  const ages = measureAges(objects, after.checked);
  return {
    ...ages,
    verdict: damage.verdict,
    objectsChecked: run.objects,
    bytesRead: run.bytes,
    objectsListed: objects.length,
    bytesListed: objects.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    badObjects: damage.objects,
    badObjectsOmitted: damage.objectsOmitted,
    damagedBefore: before.damaged.size,
    durationMs: clock.monotonicMs() - startMs,
  };
}

/** Packs, segments and manifests, sorted by name; all else is read whole each time it is used. */
function listScrubbable(state: StoreState): readonly ScrubObject[] {
  const objects: ScrubObject[] = [];
  for (const [name, sizeBytes] of state.listed) {
    if (!isInventoried(name) || expectedHash(state, name) === undefined) continue;
    const number = state.inventory.expected.get(name)?.number ?? Infinity;
    objects.push({ name, sizeBytes, number });
  }
  return objects.sort((a, b) => (a.name < b.name ? -1 : 1));
}

class ScrubRun {
  readonly #options: ScrubOptions;
  readonly #state: StoreState;
  readonly #damage: Damage;
  readonly #before: ReadonlySet<string>;
  objects = 0;
  bytes = 0;
  #range: CheckedRange | undefined;
  #damaged: string[] = [];
  #sound: string[] = [];

  constructor(
    options: ScrubOptions,
    found: {
      readonly state: StoreState;
      readonly damage: Damage;
      readonly before: ReadonlySet<string>;
    },
  ) {
    this.#options = options;
    this.#state = found.state;
    this.#damage = found.damage;
    this.#before = found.before;
    // What is missing or of another size is proved already.
    for (const { name, verdict } of found.damage.objects) {
      if (verdict === "damaged" && !found.before.has(name) && !name.includes("*")) {
        this.#damaged.push(name);
      }
    }
  }

  /** Checks objects in this order until the budget is spent. */
  async check(objects: readonly ScrubObject[], startMs: number): Promise<void> {
    const { budget, clock, signal, onProgress } = this.#options;
    const planned = objects.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    for (const object of objects) {
      signal?.throwIfAborted();
      const isSpent =
        this.bytes >= budget.bytes || clock.monotonicMs() - startMs >= budget.durationMs;
      if (isSpent) break;
      // A range is of names that follow each other: where the order starts anew, so does a range.
      const last = this.#range;
      if (last !== undefined && (object.name < last.to || last.objects >= objectsPerRange)) {
        await this.#note();
      }
      await this.#checkOne(object);
      onProgress?.(this.bytes, Math.min(planned, budget.bytes));
    }
    await this.#note();
  }

  async #checkOne({ name }: ScrubObject): Promise<void> {
    const { store, signal } = this.#options;
    const sha256 = fromHex(expectedHash(this.#state, name) ?? "") ?? new Uint8Array();
    const read = await readChecked({ store, signal }, name, sha256);
    this.bytes += read.bytesRead;
    const isRemoved = read.kind === "missing" && (await this.#state.wasRemoved(name));
    if (read.verdict !== "sound" && !isRemoved) {
      this.#damage.addObject({ name, verdict: read.verdict, reason: read.reason });
      if (read.verdict === "damaged") this.#damaged.push(name);
      // What could not be read was not checked: the next scrub is to come by again.
      if (read.verdict === "unknown") {
        await this.#note();
        return;
      }
    } else if (this.#before.has(name)) this.#sound.push(name);
    this.objects++;
    this.#extend(name, read.bytesRead);
  }

  #extend(name: string, bytes: number): void {
    const range = this.#range;
    const atMs = this.#options.clock.nowMs();
    const upTo = this.#state.inventory.number;
    this.#range =
      range === undefined
        ? { atMs, upTo, objects: 1, bytes, from: name, to: name }
        : { ...range, objects: range.objects + 1, bytes: range.bytes + bytes, to: name };
  }

  /** Puts what was found since the last time; durable on return. */
  async #note(): Promise<void> {
    const { store, keys, signal } = this.#options;
    const checked = this.#range === undefined ? [] : [this.#range];
    const [damaged, sound] = [this.#damaged, this.#sound];
    this.#range = undefined;
    this.#damaged = [];
    this.#sound = [];
    if (checked.length + damaged.length + sound.length === 0) return;
    await putFindings({ store, keys, signal }, { damaged, sound, checked });
  }
}
