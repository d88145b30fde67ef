/**
 * Scrub: checks all objects of a vault bit by bit, within a budget, and remembers in the vault what
 * was checked when, so that any host goes on where the last one ended; docs/design/verify-and-heal.md.
 */
import { availableParallelism } from "node:os";

import { fromHex } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import {
  type CheckDepth,
  type CheckedRange,
  compactFindings,
  putFindings,
  readFindings,
} from "#vault/inventory/findings.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { type BadObject, Damage, type Verdict } from "#vault/verify/damage.ts";
import { workersMax } from "#vault/limits.ts";
import { openWhole } from "#vault/verify/open-whole.ts";
import { readChecked, type ReadObject } from "#vault/verify/read-object.ts";
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
import { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Objects after which what was checked is noted: a scrub that is killed loses no more than these. */
const objectsPerRange = 4096;

/** What to scrub, and how much. */
export interface ScrubOptions {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly clock: Clock;
  /** `full` also opens everything in each object; remembered apart. `objects` by default. */
  readonly depth?: CheckDepth | undefined;
  /** Threads that open; by default one for each processor, at most {@link workersMax}. */
  readonly workers?: number | undefined;
  /** It ends with the object that reaches either. */
  readonly budget: { readonly bytes: number; readonly durationMs: number };
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** What a scrub has found. Ages are those of its depth. */
export interface ScrubReport extends ScrubAges {
  readonly depth: CheckDepth;
  /** The worst of what was looked at in this run. */
  readonly verdict: Verdict;
  readonly objectsChecked: number;
  /** Blocks and map nodes whose ids were compared with their content; 0 unless in full. */
  readonly blocksChecked: number;
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
  const { store, keys, clock, signal, depth = "objects" } = options;
  const startMs = clock.monotonicMs();
  const place = { store, keys, vaultId: keys.vaultId, signal };
  const before = await readFindings(place);
  const damage = new Damage();
  const state = await checkStore(place, damage);
  const objects = listScrubbable(state);
  await using pool = new WorkerPool({
    start: { keys, verify: false },
    size: Math.min(workersMax, options.workers ?? availableParallelism()),
  });
  const run = new ScrubRun(options, { state, damage, before: before.damaged, pool });
  await run.check(planScrub(objects, before.checked, depth), startMs);
  await compactFindings({ store, keys, signal });
  const after = await readFindings(place);
  const ages = measureAges(objects, after.checked, depth);
  return {
    ...ages,
    depth,
    verdict: damage.verdict,
    objectsChecked: run.objects,
    blocksChecked: run.blocks,
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
  readonly #pool: WorkerPool;
  readonly #depth: CheckDepth;
  objects = 0;
  blocks = 0;
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
      readonly pool: WorkerPool;
    },
  ) {
    this.#options = options;
    this.#depth = options.depth ?? "objects";
    this.#pool = found.pool;
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
    const read = await this.#read(name);
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

  async #read(name: string): Promise<ReadObject> {
    const { store, keys, signal } = this.#options;
    const sha256 = fromHex(expectedHash(this.#state, name) ?? "") ?? new Uint8Array();
    const read = await readChecked({ store, signal }, name, sha256);
    if (read.verdict !== "sound") return read;
    // What was damaged before may be so in what it holds, although it hashes to its name.
    if (this.#depth === "objects" && !this.#before.has(name)) return read;
    const onChecked = (blocks: number): void => void (this.blocks += blocks);
    const deps = { store, keys, pool: this.#pool, signal, onChecked };
    const problem = await openWhole(deps, name, read.bytes);
    if (problem === undefined) return read;
    // As with reads: only what is wrong twice is proved, for memory errs as well.
    const again = await readChecked({ store, signal }, name, sha256);
    const bytesRead = read.bytesRead + again.bytesRead;
    if (again.verdict !== "sound") return { ...again, bytesRead };
    if ((await openWhole(deps, name, again.bytes)) !== undefined) {
      return { ...again, ...problem, bytesRead };
    }
    const reason = `it opened the second time only: ${problem.reason}`;
    return { ...again, verdict: "unknown", reason, bytesRead };
  }

  #extend(name: string, bytes: number): void {
    const range = this.#range;
    const atMs = this.#options.clock.nowMs();
    const upTo = this.#state.inventory.number;
    this.#range =
      range === undefined
        ? { depth: this.#depth, atMs, upTo, objects: 1, bytes, from: name, to: name }
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
