/**
 * Verification: whether every recovery point can be restored, and what is wrong if not.
 *
 * Four steps: read manifests; walk the maps and note which packs they need, each shared subtree
 * once; read every such object once, check its name without keys and every frame and block in it
 * with them; and, only if something is wrong, walk all maps again to name what it touches. Memory
 * is that of a few packs, and about 300 bytes for each pack of the store.
 */
import { availableParallelism } from "node:os";

import type { Clock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
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
import { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Packs in memory at once, of at most 64 MiB each. */
const packsInFlight = 2;

/** What to verify, and with what. */
export interface VerifyOptions {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly vault: Vault;
  readonly clock: Clock;
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
  readonly verdict: Verdict;
  readonly objectsChecked: number;
  readonly bytesRead: number;
  /** Blocks and nodes whose ids were checked. */
  readonly blocksChecked: number;
  readonly badObjects: readonly BadObject[];
  readonly badObjectsOmitted: number;
  readonly points: readonly VerifiedPoint[];
  readonly durationMs: number;
}

/**
 * Verifies a vault; see the file's head. What is wrong is in the report, not thrown.
 *
 * Errors: those of the store where it cannot even be listed; Cancelled.
 */
export async function verifyVault(options: VerifyOptions): Promise<VerifyReport> {
  const startMs = options.clock.monotonicMs();
  await using run = new Verification(options);
  const report = await run.verify();
  return { ...report, durationMs: options.clock.monotonicMs() - startMs };
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
  #objects = 0;
  #bytes = 0;
  #blocks = 0;
  #totalBytes = 0;

  constructor(options: VerifyOptions) {
    const { store, keys, vault, signal } = options;
    this.#options = options;
    this.#nodes = new NodeReader({ store, keys, locator: vault.locator });
    this.#pool = new WorkerPool({
      start: { keys, verify: false },
      size: Math.min(workersMax, options.workers ?? availableParallelism()),
    });
    const deps: CheckDeps = {
      store,
      keys,
      pool: this.#pool,
      damage: this.#damage,
      signal,
      onChecked: (bytes, blocks) => this.#count(bytes, blocks),
    };
    this.#checker = new ObjectChecker(deps);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool[Symbol.asyncDispose]();
  }

  async verify(): Promise<Omit<VerifyReport, "durationMs">> {
    const { vault, points } = this.#options;
    const states = await this.#readManifests();
    // Points that others commit just now are to be found whole.
    await vault.locator.refresh();
    for (const { name, error } of vault.index.lost) {
      const verdict = verdictOf(error);
      this.#damage.addObject({ name: indexSegmentName(name), verdict, reason: error.message });
    }
    const needed = points === undefined ? undefined : new Set<string>();
    const isWalkSound = await this.#walkOnce(states, needed);
    await this.#checkObjects(needed);
    const isSound = isWalkSound && this.#damage.verdict === "sound";
    const verified = await this.#judge(states, isSound);
    const ofPoints = verified.reduce<Verdict>((sum, { verdict }) => worse(sum, verdict), "sound");
    return {
      verdict: worse(this.#damage.verdict, ofPoints),
      objectsChecked: this.#objects,
      bytesRead: this.#bytes,
      blocksChecked: this.#blocks,
      badObjects: this.#damage.objects,
      badObjectsOmitted: this.#damage.objectsOmitted,
      points: verified,
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

  /** Reads every object that is wanted, packs with their tables first. */
  async #checkObjects(needed: ReadonlySet<string> | undefined): Promise<void> {
    const { vault, signal } = this.#options;
    const waiting = await this.#listObjects(needed);
    const running = new Set<Promise<void>>();
    let failure: { readonly error: unknown } | undefined;
    const start = async (check: () => Promise<unknown>): Promise<void> => {
      if (running.size >= packsInFlight) await Promise.race(running);
      const work: Promise<void> = check()
        .then(
          () => undefined,
          (error: unknown) => {
            failure ??= { error };
          },
        )
        .finally(() => running.delete(work));
      running.add(work);
    };
    for await (const pack of vault.index.packs()) {
      signal?.throwIfAborted();
      if (failure !== undefined) break;
      const name = pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
      if (waiting.delete(name)) await start(() => this.#checker.checkPack(pack));
      else if (needed === undefined || needed.has(name))
        await start(() => this.#notePack(name, pack));
    }
    for (const name of waiting) {
      if (failure !== undefined) break;
      const parsed = parseStoreName(name);
      if (parsed === undefined || !("sha256" in parsed)) continue;
      await start(() => this.#checker.checkName(name, parsed.sha256));
    }
    await Promise.all(running);
    if (failure !== undefined) throw failure.error;
  }

  /** A pack of the index that was not listed: missing, or in a second segment and checked already. */
  async #notePack(name: string, pack: IndexPack): Promise<void> {
    const { store, signal } = this.#options;
    if ((await store.stat(name, signal)) !== undefined) return;
    this.#damage.addPack(pack.name, "damaged");
    const reason = "an index segment names it, and it is not in the store";
    this.#damage.addObject({ name, verdict: "damaged", reason });
  }

  /** Objects whose names are hashes; all, or those that are needed. */
  async #listObjects(needed: ReadonlySet<string> | undefined): Promise<Set<string>> {
    const { store, signal } = this.#options;
    const names = new Set<string>();
    for await (const { name, sizeBytes } of store.list("", signal)) {
      const parsed = parseStoreName(name);
      if (parsed === undefined || !("sha256" in parsed)) continue;
      if (needed !== undefined && !needed.has(name)) continue;
      names.add(name);
      this.#totalBytes += sizeBytes;
    }
    return names;
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

function soundDisk(disk: ManifestDisk): VerifiedDisk {
  return { name: disk.name, verdict: "sound", damagedBytes: 0, ranges: [], rangesOmitted: 0 };
}
