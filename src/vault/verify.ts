/**
 * Verification: whether every recovery point can be restored, and what is wrong if not.
 *
 * Five steps: compare the listing with the inventory; read manifests; walk the maps and note which
 * packs they need, each shared subtree once; read every such object once, check its name without
 * keys and every frame and block in it with them, as deep as is asked for; and, only if something is
 * wrong, walk all maps again to name what it touches. Memory is that of a few packs, and about 500
 * bytes for each pack of the store. See docs/design/verify-and-heal.md.
 */
import { availableParallelism } from "node:os";

import { assert, present } from "#base/assert.ts";
import { BoundedWork } from "#base/bounded-work.ts";
import type { Clock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { fromHex } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import type { IndexPack } from "#formats/index-segment.ts";
import type { Manifest, ManifestDisk } from "#formats/manifest.ts";
import {
  indexSegmentName,
  mapPackName,
  packName,
  parseStoreName,
  pointName,
} from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { runSteps } from "#vault/gc/run-steps.ts";
import { listMarks } from "#vault/gc/session-protocol.ts";
import { putFindings, readFindings } from "#vault/inventory/findings.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { workersMax } from "#vault/limits.ts";
import type { DiskMap } from "#vault/map/map-source.ts";
import { NodeReader } from "#vault/reader/node-reader.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import {
  type BadObject,
  badRangesMax,
  Damage,
  type Verdict,
  verdictOf,
  worse,
} from "#vault/verify/damage.ts";
import { checkMap, type MapCheck, toByteRange } from "#vault/verify/map-check.ts";
import { type CheckDeps, ObjectChecker } from "#vault/verify/pack-check.ts";
import { checkStore, expectedHash, type StoreState } from "#vault/verify/store-check.ts";
import { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Packs in memory at once, of some 32 and at most 64 MiB each: one for each thread and one that is read. */
const packsInFlightMax = 5;

/**
 * How deep: `structure` reads no data but looks whether every block lies in a pack that is there;
 * `objects` compares every object with its name; `full` also opens every frame and computes every id.
 */
export type VerifyDepth = "structure" | "objects" | "full";

/** What to verify, and with what. */
export interface VerifyOptions {
  /** `full` unless told otherwise. */
  readonly depth?: VerifyDepth;
  /** Whether damage that is proved is noted in the store, so that the next backups heal it. */
  readonly record?: boolean;
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly vault: Vault;
  readonly clock: Clock;
  /** Takes key epochs into `keys` that began since; whether there are any. Asked once, where something is wrong. */
  readonly rereadKeys?: (() => Promise<boolean>) | undefined;
  /** What is known to be wrong with objects of the store, by what the host remembers. */
  readonly known?: readonly BadObject[];
  /** Only these points and the packs that they need; by default all points and every object. */
  readonly points?: readonly PointName[];
  readonly workers?: number;
  readonly signal?: AbortSignal;
  /** Bytes of objects that were read, of all that will be. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

/** A range of a disk that cannot be restored. */
export interface BadRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** What was found for one disk of a point. */
export interface VerifiedDisk {
  readonly name: string;
  readonly verdict: Verdict;
  readonly damagedBytes: number;
  /** In order; at most 1,000. */
  readonly ranges: readonly BadRange[];
  readonly rangesOmitted: number;
  readonly reason?: string;
}

/** What was found for one point. */
export interface VerifiedPoint {
  readonly name: PointName;
  /** Absent where the manifest cannot be read. */
  readonly manifest?: Manifest;
  readonly verdict: Verdict;
  readonly disks: readonly VerifiedDisk[];
  readonly reason?: string;
}

/** What a verification found. */
export interface VerifyReport {
  readonly depth: VerifyDepth;
  readonly verdict: Verdict;
  /** The worst of all points, whatever is wrong besides. */
  readonly pointsVerdict: Verdict;
  /** Objects that no part of the inventory names: of runs under way or broken off. */
  readonly objectsUnnamed: number;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  /** Blocks and nodes whose ids were checked. */
  readonly blocksChecked: number;
  readonly badObjects: readonly BadObject[];
  readonly badObjectsOmitted: number;
  readonly points: readonly VerifiedPoint[];
  /** Objects that were read and hash to their names. */
  readonly readObjects: ReadonlySet<string>;
  readonly durationMs: number;
}

/**
 * Verifies a vault; see the file's head. What is wrong is in the report, not thrown.
 *
 * Errors: those of the store where it cannot even be listed; Cancelled.
 */
export async function verifyVault(options: VerifyOptions): Promise<VerifyReport> {
  const startMs = options.clock.monotonicMs();
  const report = (await verifyOnce(options, options.rereadKeys)) ?? (await verifyOnce(options));
  assert(report !== undefined, "a verification that does not read keys again has a report");
  return { ...report, durationMs: options.clock.monotonicMs() - startMs };
}

/**
 * `undefined` where the vault's keys were rotated meanwhile: what is sealed under the new epoch cannot be told
 * from what is wrong, and can be now.
 */
async function verifyOnce(
  options: VerifyOptions,
  rereadKeys?: () => Promise<boolean>,
): Promise<Omit<VerifyReport, "durationMs"> | undefined> {
  await using run = new Verification(options);
  try {
    return await run.verify(rereadKeys);
  } catch (error) {
    if (isKluisError(error, "KeyWrong") && (await rereadKeys?.()) === true) return undefined;
    throw error;
  }
}

interface PointState {
  readonly name: PointName;
  readonly manifest: Manifest | undefined;
  readonly verdict: Verdict;
  readonly reason?: string;
}

class Verification implements AsyncDisposable {
  readonly #options: VerifyOptions;
  readonly #damage = new Damage();
  readonly #pool: WorkerPool;
  readonly #nodes: NodeReader;
  readonly #checker: ObjectChecker;
  readonly #workers: number;
  #objects = 0;
  #bytes = 0;
  #blocks = 0;
  #totalBytes = 0;
  #state: StoreState | undefined;

  constructor(options: VerifyOptions) {
    const { store, keys, vault, signal } = options;
    this.#options = options;
    for (const object of options.known ?? []) this.#damage.addObject(object);
    this.#workers = Math.min(workersMax, options.workers ?? availableParallelism());
    this.#nodes = new NodeReader({ store, keys, locator: vault.locator });
    this.#pool = new WorkerPool({
      start: { keys, verify: false },
      size: this.#workers,
    });
    // Threads take as long to start as what comes before them: a listing and a walk of the maps.
    if ((options.depth ?? "full") === "full") this.#pool.warmUp(this.#workers);
    const deps: CheckDeps = {
      store,
      keys,
      pool: this.#pool,
      damage: this.#damage,
      signal,
      wasRemoved: async (name) => (await this.#state?.wasRemoved(name)) ?? false,
      onChecked: (bytes, blocks) => this.#count(bytes, blocks),
    };
    this.#checker = new ObjectChecker(deps);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool[Symbol.asyncDispose]();
  }

  /** `undefined` where something is wrong before any object is read, and `rereadKeys` has new keys. */
  async verify(
    rereadKeys: (() => Promise<boolean>) | undefined,
  ): Promise<Omit<VerifyReport, "durationMs"> | undefined> {
    const { vault, points, depth = "full" } = this.#options;
    const states = await this.#readManifests();
    // Points that others commit just now are to be found whole.
    vault.locator.expectMore();
    await vault.locator.refresh();
    const state = await this.#checkStore();
    await this.#checkMarks();
    for (const { name, error } of vault.index.lost) {
      const segment = indexSegmentName(name);
      // Replaced, and there for its lock alone; or collected meanwhile.
      if (await state.wasRemoved(segment)) continue;
      const verdict = verdictOf(error);
      this.#damage.addObject({ name: segment, verdict, reason: error.message });
    }
    const needed = points === undefined ? undefined : new Set<string>();
    const isWalkSound = await this.#walkOnce(states, needed);
    const isWrong = !isWalkSound || !this.#damage.isNone;
    if (isWrong && (await rereadKeys?.()) === true) return undefined;
    await this.#checkObjects(state, needed);
    const isSound = isWalkSound && this.#damage.isNone;
    // Where a block lies in another pack too, that one counts.
    if (!isSound) await vault.index.setDistrusted("defect", this.#damage.damagedPacks);
    const verified = await this.#judge(states, isSound);
    const ofPoints = verified.reduce<Verdict>((sum, { verdict }) => worse(sum, verdict), "sound");
    if (this.#options.record === true) await this.#record();
    return {
      depth,
      verdict: worse(this.#damage.verdict, ofPoints),
      pointsVerdict: ofPoints,
      objectsUnnamed: state.unnamed.length,
      objectsChecked: this.#objects,
      bytesRead: this.#bytes,
      blocksChecked: this.#blocks,
      badObjects: this.#damage.objects,
      badObjectsOmitted: this.#damage.objectsOmitted,
      points: verified,
      readObjects: this.#checker.whole,
    };
  }

  #count(bytes: number, blocks: number): void {
    if (bytes > 0) this.#objects++;
    this.#bytes += bytes;
    this.#blocks += blocks;
    this.#options.onProgress?.(this.#bytes, Math.max(this.#totalBytes, this.#bytes));
  }

  async #readManifests(): Promise<readonly PointState[]> {
    const { vault, signal } = this.#options;
    const names = this.#options.points ?? (await vault.listPoints(undefined, signal));
    const states: PointState[] = [];
    for (const name of names) {
      try {
        states.push({ name, manifest: await vault.readPoint(name, signal), verdict: "sound" });
        this.#objects++;
      } catch (error) {
        signal?.throwIfAborted();
        if (!isKluisError(error)) throw error;
        const isDeleted = error.code === "RecoveryPointNotFound";
        if (isDeleted && this.#options.points === undefined) continue;
        const verdict = verdictOf(error);
        const reason = error.message;
        this.#damage.addObject({ name: pointName(name.item, name.pointId), verdict, reason });
        states.push({ name, manifest: undefined, verdict, reason });
      }
    }
    return states;
  }

  /** Walks what no earlier point of the item has at the same place. */
  async #walkOnce(
    states: readonly PointState[],
    needed: Set<string> | undefined,
  ): Promise<boolean> {
    let isSound = true;
    const walked = new Map<string, DiskMap>();
    for (const { manifest, name } of states) {
      for (const disk of manifest?.disks ?? []) {
        const key = `${name.item} ${disk.name}`;
        const check = this.#mapCheck(disk, walked.get(key), (type, pack) =>
          needed?.add(type === "pack" ? packName(pack) : mapPackName(pack)),
        );
        for await (const _ of checkMap(check)) isSound = false;
        walked.set(key, disk);
      }
    }
    return isSound;
  }

  #mapCheck(
    disk: ManifestDisk,
    known: DiskMap | undefined,
    onPack: (type: IndexPack["type"], name: Uint8Array) => void,
  ): MapCheck {
    return {
      map: disk,
      known,
      access: this.#nodes,
      index: this.#options.vault.index,
      damage: this.#damage,
      onBlock: ({ pack }) => onPack(pack.type, pack.name),
      signal: this.#options.signal,
    };
  }

  /** A deletion mark that does not open deletes nothing. */
  async #checkMarks(): Promise<void> {
    if (this.#options.points !== undefined) return;
    const { damaged } = await runSteps(listMarks(), { ...this.#options, random: systemRandom });
    for (const name of damaged) {
      const reason = "a recovery point was deleted by it, and counts as existing now";
      this.#damage.addObject({ name, verdict: "damaged", reason });
    }
  }

  /** What is wrong by the inventory counts where everything is verified, or what is needed. */
  async #checkStore(): Promise<StoreState> {
    const { store, keys, signal, points } = this.#options;
    const damage = points === undefined ? this.#damage : new Damage();
    const state = await checkStore({ store, keys, vaultId: keys.vaultId, signal }, damage);
    this.#state = state;
    return state;
  }

  /** Notes for all hosts what was proved. Errors: those of the store. */
  async #record(): Promise<void> {
    const { store, keys, signal } = this.#options;
    const damaged = this.#damage.objects
      .filter(({ name, verdict }) => verdict === "damaged" && parseStoreName(name) !== undefined)
      .map(({ name }) => name);
    if (damaged.length > 0) await putFindings({ store, keys, signal }, { damaged });
  }

  /** Reads every object that is wanted, packs with their tables first. */
  async #checkObjects(state: StoreState, needed: ReadonlySet<string> | undefined): Promise<void> {
    const { vault, signal, depth = "full" } = this.#options;
    const waiting = await this.#choose(state, needed);
    const work = new BoundedWork(Math.min(packsInFlightMax, this.#workers + 1));
    try {
      for await (const pack of vault.index.packs()) {
        signal?.throwIfAborted();
        const name = pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
        const isWaiting = waiting.delete(name);
        const sizeBytes = state.listed.get(name);
        if (isWaiting || isCut(pack, sizeBytes)) {
          await work.start(() => this.#checker.checkPack(pack, isWaiting && depth === "full"));
        } else if (sizeBytes === undefined && needed?.has(name) !== false) {
          await work.start(() => this.#noteMissing(name, pack));
        }
      }
      for (const name of waiting) {
        const sha256 = fromHex(present(expectedHash(state, name), "what is chosen has a hash"));
        await work.start(() =>
          this.#checker.checkName(name, present(sha256, "a hash is hexadecimal")),
        );
      }
    } finally {
      await work.settle();
    }
    await work.end();
  }

  /** A pack of the index that was not listed: it is gone, or a listing has left it out. */
  async #noteMissing(name: string, pack: IndexPack): Promise<void> {
    const { store, signal } = this.#options;
    if ((await store.stat(name, signal)) !== undefined) return;
    this.#damage.addPack(pack.name, "damaged");
    // Nobody misses what was removed on purpose, but who needs it is told.
    if (await this.#state?.wasRemoved(name)) return;
    const reason = "an index segment names it, and it is not in the store";
    this.#damage.addObject({ name, verdict: "damaged", reason });
  }

  /** Objects to be read at this depth: all whose content has a hash, or those that are suspect. */
  async #choose(state: StoreState, needed: ReadonlySet<string> | undefined): Promise<Set<string>> {
    const { store, keys, signal, depth = "full" } = this.#options;
    const place = { store, keys, vaultId: keys.vaultId, signal };
    const suspects = depth === "structure" ? (await readFindings(place)).damaged : undefined;
    const chosen = new Set<string>();
    for (const [name, sizeBytes] of state.listed) {
      if (needed !== undefined && !needed.has(name)) continue;
      const isWanted = suspects === undefined || suspects.has(name) || state.resized.has(name);
      if (!isWanted || expectedHash(state, name) === undefined) continue;
      // Manifests are read and judged as such.
      if (parseStoreName(name)?.kind === "manifest") continue;
      chosen.add(name);
      this.#totalBytes += sizeBytes;
    }
    return chosen;
  }

  async #judge(states: readonly PointState[], isSound: boolean): Promise<readonly VerifiedPoint[]> {
    const verified: VerifiedPoint[] = [];
    for (const state of states) {
      const { name, manifest, reason } = state;
      if (manifest === undefined) {
        const why = reason === undefined ? {} : { reason };
        verified.push({ name, verdict: state.verdict, disks: [], ...why });
        continue;
      }
      const disks: VerifiedDisk[] = [];
      for (const disk of manifest.disks) {
        disks.push(isSound ? soundDisk(disk) : await this.#judgeDisk(disk));
      }
      const verdict = disks.reduce<Verdict>((sum, disk) => worse(sum, disk.verdict), "sound");
      verified.push({ name, manifest, verdict, disks });
    }
    return verified;
  }

  async #judgeDisk(disk: ManifestDisk): Promise<VerifiedDisk> {
    const ranges: { offsetBytes: number; lengthBytes: number }[] = [];
    let verdict: Verdict = "sound";
    let damagedBytes = 0;
    let rangesOmitted = 0;
    let reason: string | undefined;
    const check = this.#mapCheck(disk, undefined, () => undefined);
    for await (const bad of checkMap(check)) {
      verdict = worse(verdict, bad.verdict);
      reason ??= bad.reason;
      const range = toByteRange(bad, disk.sizeBytes);
      damagedBytes += range.lengthBytes;
      const last = ranges.at(-1);
      if (last !== undefined && last.offsetBytes + last.lengthBytes === range.offsetBytes) {
        last.lengthBytes += range.lengthBytes;
      } else if (ranges.length < badRangesMax) ranges.push({ ...range });
      else rangesOmitted++;
    }
    const why = reason === undefined ? {} : { reason };
    return { name: disk.name, verdict, damagedBytes, ranges, rangesOmitted, ...why };
  }
}

/** Whether a listed pack is too short for what the index says of it. */
function isCut(pack: IndexPack, sizeBytes: number | undefined): boolean {
  const end = pack.frames.reduce((sum, frame) => sum + frame.sealedBytes, containerHeaderBytes);
  return sizeBytes !== undefined && sizeBytes < end;
}

function soundDisk(disk: ManifestDisk): VerifiedDisk {
  return { name: disk.name, verdict: "sound", damagedBytes: 0, ranges: [], rangesOmitted: 0 };
}
