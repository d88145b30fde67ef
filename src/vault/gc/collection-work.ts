/** The work of a collection between the steps of its protocol: mark, choose, copy out, index anew. */
import type { Clock } from "#base/clock.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { containerHeaderBytes, parseContainerHeader } from "#formats/container.ts";
import { encodeIndexSegment, type IndexPack } from "#formats/index-segment.ts";
import { indexSegmentName, mapPackName, packName } from "#formats/store-names.ts";
import { findDefects, findLostSegments } from "#vault/health/examine.ts";
import { PackListing } from "#vault/health/pack-listing.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import type { PackExtent } from "#vault/index/entry-reader.ts";
import type { LostSegment } from "#vault/index/segment-repairs.ts";
import { putInventoryPart, type StoredObject } from "#vault/inventory/inventory.ts";
import {
  manifestsAtOnce,
  mergedSegmentEntries,
  smallSegmentEntries,
  smallSegmentsMax,
} from "#vault/limits.ts";
import { sessionIdBytes, toSha256 } from "./backup-session.ts";
import type { CollectionChoice, CollectionInput, CollectionWork } from "./collect-protocol.ts";
import { CopyOut } from "./copy-out.ts";
import { findKept } from "#vault/locks/find-kept.ts";
import { Marker, type MarkerDeps } from "./marker.ts";
import {
  type CollectionLimits,
  type CollectionPlan,
  type PackUse,
  planCollection,
} from "./plan-collection.ts";
import { type Steps, work } from "./steps.ts";

/** What the work needs. */
export interface WorkDeps extends MarkerDeps {
  /** Salts of this session. */
  readonly salts: RandomSource;
  readonly clock: Clock;
  /** The roots of all disks of a manifest; ObjectNotFound where it is gone. */
  readonly readRoots: (manifest: string) => Promise<readonly Uint8Array[]>;
  readonly limits: CollectionLimits;
  /** Packs and segments that may be removed; all where it is not given. */
  readonly mayRemove?: ((name: string) => boolean) | undefined;
  /** Called when the plan is made, before anything is condemned. */
  readonly onPlan: (plan: CollectionPlan) => void;
}

/** What the work came to. */
export interface WorkTotals {
  copiedBytes: number;
  copiedBlocks: number;
  segmentsWritten: number;
}

/** See the file's head. One object serves one collection. */
export class VaultCollectionWork implements CollectionWork {
  readonly marker: Marker;
  readonly totals: WorkTotals = { copiedBytes: 0, copiedBlocks: 0, segmentsWritten: 0 };
  readonly #deps: WorkDeps;
  readonly #seen = new Set<string>();
  /** Names of the packs that had a defect when marking began, in order. */
  #defects = "";

  constructor(deps: WorkDeps) {
    this.#deps = deps;
    this.marker = new Marker(deps);
  }

  *choose(input: CollectionInput): Steps<CollectionChoice> {
    return yield* work("choose", async () => await this.#choose(input));
  }

  *secure(input: CollectionInput, choice: CollectionChoice): Steps<void> {
    yield* work("copy-out", async () => {
      await this.#secure(input, choice);
    });
  }

  *announce(names: readonly string[]): Steps<void> {
    const { store, keys, signal } = this.#deps;
    yield* work("remove-in-order", async () => {
      await putInventoryPart({ store, keys, signal }, { removed: names });
    });
  }

  async #choose(input: CollectionInput): Promise<CollectionChoice> {
    await this.#loadIndex(input, input.condemned);
    await this.#mark(input.manifests, "skip");
    const kept = await findKept(this.#deps, input);
    const uses = await this.#usesOf(input);
    const vaultBytes = uses.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const free = uses.filter(({ name }) => !kept.has(name));
    const plan = planCollection(free, this.#deps.limits, vaultBytes);
    this.#deps.onPlan(plan);
    const packs = plan.packs.map(({ name }) => name);
    const segments = await this.#chooseSegments(new Set(packs), namesOf(input));
    return { packs, segments: segments.filter((name) => !kept.has(name)) };
  }

  async #secure(input: CollectionInput, choice: CollectionChoice): Promise<void> {
    const chosen = new Set(choice.packs);
    const condemned = new Set([...chosen, ...input.condemned]);
    await this.#loadIndex(input, condemned);
    await this.#mark(input.manifests, "fail");
    const listed = namesOf(input);
    const copies = new CopyOut({ ...this.#deps, marker: this.marker });
    for await (const extent of this.#deps.index.packExtents()) {
      const name = nameOf(extent);
      if (condemned.has(name) || !listed.has(name)) copies.note(extent);
    }
    const isKept = (name: string): boolean => listed.has(name) && !chosen.has(name);
    await copies.run(() => this.#replaceSegments(choice, isKept));
    this.totals.copiedBytes = copies.totals.bytes;
    this.totals.copiedBlocks = copies.totals.blocks;
  }

  /** The index as listed; blocks in packs that are condemned or not there are not built on. */
  async #loadIndex(input: CollectionInput, condemned: ReadonlySet<string>): Promise<void> {
    const { index, signal } = this.#deps;
    const segments = input.segments.flatMap(toSha256);
    index.trustAgain();
    await index.refresh(segments, signal);
    // Marks are of entries: where another collection has replaced their segments, marking starts anew.
    if (index.retire(segments) > 0) this.#forgetMarks();
    const [lost] = (await findLostSegments(this.#deps)).filter(({ name }) =>
      segments.some((one) => bytesEqual(one, name)),
    );
    if (lost !== undefined) await this.#throwLost(lost);
    const listed = namesOf(input);
    const distrusted: Uint8Array[] = [];
    for await (const extent of index.packExtents()) {
      const name = nameOf(extent);
      if (condemned.has(name) || !listed.has(name)) distrusted.push(extent.head.name);
    }
    await index.setDistrusted("condemned", distrusted);
    await this.#distrustDefects(input);
  }

  /**
   * Where a pack is short or known to be damaged, points rest on another that has its blocks: that one is to be
   * marked, or it would go for garbage and the damaged one would stay.
   */
  async #distrustDefects(input: CollectionInput): Promise<void> {
    const { packs } = await findDefects(this.#deps, listingOf(input));
    await this.#deps.index.setDistrusted("defect", packs);
    const defects = packs.map(toHex).sort().join();
    // What was marked in one of them before may be elsewhere as well.
    if (defects !== this.#defects) this.#forgetMarks();
    this.#defects = defects;
  }

  #forgetMarks(): void {
    this.marker.clear();
    this.#seen.clear();
  }

  /** A segment that was listed and is gone has been removed: by a collection that has decided. */
  async #throwLost({ name, error }: LostSegment): Promise<never> {
    const { store, signal } = this.#deps;
    const segment = indexSegmentName(name);
    const isGone =
      isKluisError(error, "ObjectNotFound") && (await store.stat(segment, signal)) === undefined;
    if (!isGone) throw error;
    const reason = `another collection has just removed "${segment}"`;
    throw new KluisError("Busy", `Cannot collect: ${reason}`, { cause: error });
  }

  async #mark(manifests: readonly string[], whenGone: "skip" | "fail"): Promise<void> {
    const fresh = manifests.filter((name) => !this.#seen.has(name));
    const roots = new Map<string, Uint8Array>();
    for (let at = 0; at < fresh.length; at += manifestsAtOnce) {
      const batch = fresh.slice(at, at + manifestsAtOnce);
      const read = await Promise.all(batch.map((name) => this.#readRoots(name, whenGone)));
      for (const root of read.flat()) roots.set(toHex(root), root);
    }
    await this.marker.markMaps([...roots.values()]);
  }

  /** Roots of a manifest. While a collection verifies its choice none may go: see the design page, B. */
  async #readRoots(name: string, whenGone: "skip" | "fail"): Promise<readonly Uint8Array[]> {
    try {
      const roots = await this.#deps.readRoots(name);
      this.#seen.add(name);
      return roots;
    } catch (error) {
      if (whenGone === "skip" && isKluisError(error, "RecoveryPointNotFound")) return [];
      throw error;
    }
  }

  /** Every listed pack that may be chosen, with what is marked in it. */
  async #usesOf(input: CollectionInput): Promise<readonly PackUse[]> {
    const found = new Map<string, { entries: number; marked: number; isLive: boolean }>();
    for await (const extent of this.#deps.index.packExtents()) {
      const name = nameOf(extent);
      const marked = this.marker.count(extent.firstNumber, extent.entries);
      const before = found.get(name)?.marked ?? 0;
      const isLive = input.live.has(sessionOf(extent.head.salt));
      // A pack that two segments name has its entries twice; a bit stands for one of them.
      found.set(name, { entries: extent.entries, marked: before + marked, isLive });
    }
    const uses: PackUse[] = [];
    for (const { name, sizeBytes } of input.packs) {
      const isCondemned = input.condemned.has(name);
      const use = found.get(name) ?? {
        entries: 0,
        marked: 0,
        isLive: !isCondemned && input.live.has(await this.#readSession(name)),
      };
      if (use.isLive && !isCondemned) continue;
      uses.push({ name, sizeBytes, isCondemned, entries: use.entries, marked: use.marked });
    }
    return uses;
  }

  /** Who put a pack that no segment names; nobody where that cannot be read. */
  async #readSession(name: string): Promise<string> {
    const { store, signal } = this.#deps;
    const info = await store.stat(name, signal);
    if (info === undefined || info.sizeBytes < containerHeaderBytes) return "";
    const range = { offsetBytes: 0, lengthBytes: containerHeaderBytes };
    const header = await store.get(name, range, signal);
    try {
      return sessionOf(parseContainerHeader(header, name).salt);
    } catch (error) {
      if (isKluisError(error, "ObjectCorrupt")) return "";
      throw error;
    }
  }

  /** Segments that name a pack which goes or is gone, and small ones once there are many. */
  async #chooseSegments(
    packs: ReadonlySet<string>,
    listed: ReadonlySet<string>,
  ): Promise<readonly string[]> {
    const entries = new Map<string, number>();
    const chosen = new Set<string>();
    for await (const extent of this.#deps.index.packExtents()) {
      const segment = indexSegmentName(extent.segmentName);
      entries.set(segment, (entries.get(segment) ?? 0) + extent.entries);
      const name = nameOf(extent);
      if (packs.has(name) || !listed.has(name)) chosen.add(segment);
    }
    const small = [...entries].filter(([, count]) => count < smallSegmentEntries);
    if (small.length > smallSegmentsMax) for (const [segment] of small) chosen.add(segment);
    return [...chosen];
  }

  /** Puts segments for all packs that stay of those chosen; returns what it put, which no inventory part names yet. */
  async #replaceSegments(
    choice: CollectionChoice,
    isKept: (name: string) => boolean,
  ): Promise<readonly StoredObject[]> {
    const { index } = this.#deps;
    const put: StoredObject[] = [];
    const written = new Set<string>();
    let packs: IndexPack[] = [];
    let entries = 0;
    for (const segment of choice.segments.flatMap(toSha256)) {
      for (const pack of await index.packsOf(segment)) {
        const name = pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
        if (!isKept(name) || written.has(name)) continue;
        written.add(name);
        packs.push(pack);
        entries += pack.entries.length;
        if (entries < mergedSegmentEntries) continue;
        put.push(await this.#putSegment(packs));
        packs = [];
        entries = 0;
      }
    }
    if (packs.length > 0) put.push(await this.#putSegment(packs));
    return put;
  }

  async #putSegment(packs: readonly IndexPack[]): Promise<StoredObject> {
    const { store, keys, salts, index, signal } = this.#deps;
    const sealed = buildContainer("indexSegment", encodeIndexSegment(packs), {
      keys,
      random: salts,
    });
    const name = indexSegmentName(sealed.name);
    await store.put(name, [sealed.bytes], signal);
    await index.addSegment(sealed.name, packs);
    this.totals.segmentsWritten++;
    return { name, sizeBytes: sealed.bytes.byteLength };
  }
}

function nameOf({ head }: PackExtent): string {
  return head.type === "pack" ? packName(head.name) : mapPackName(head.name);
}

function listingOf({ packs }: CollectionInput): PackListing {
  const listing = new PackListing();
  for (const { name, sizeBytes } of packs) {
    for (const sha256 of toSha256(name)) listing.add(sha256, sizeBytes);
  }
  return listing;
}

function namesOf({ packs }: CollectionInput): ReadonlySet<string> {
  return new Set(packs.map(({ name }) => name));
}

function sessionOf(salt: Uint8Array): string {
  return toHex(salt.subarray(0, sessionIdBytes));
}
