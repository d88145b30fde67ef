/** The steps of one round of a copy, in the order in which a reader needs what they put. */
import { createHash } from "node:crypto";

import { assert } from "#base/assert.ts";
import { isKluisError } from "#base/kluis-error.ts";
import {
  fromIndexColumns,
  type IndexPack,
  type IndexPackColumns,
  parseIndexSegment,
} from "#formats/index-segment.ts";
import type { Manifest } from "#formats/manifest.ts";
import { parseStoreName, pointName } from "#formats/store-names.ts";
import type { ObjectInfo } from "#ports/object-store.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import { isUnreadableManifest, openManifest } from "#vault/open-manifest.ts";
import { type PointName, readIndexSegment, type Vault } from "#vault/vault.ts";
import type { CopyInventory } from "./copy-inventory.ts";
import {
  copyObject,
  copyObjects,
  type CopyOutcome,
  type Inspect,
  type Verdict,
} from "./copy-objects.ts";
import type { CopyRunOptions, DamagedObject, HeldBackPoint } from "#vault/copy-report.ts";
import type { CopyListing, CopyPlan } from "./plan-copy.ts";
import { openVaultOf } from "./open-vault-of.ts";
import { PointWalk } from "./reach.ts";
import { objectOfPack, writeMissingSegments } from "./write-segments.ts";

/** See the file's head. Each step is called once, after the one before has ended. */
export class CopyRound {
  readonly #options: CopyRunOptions;
  readonly #plan: CopyPlan;
  readonly #there: CopyListing;
  readonly #inventory: CopyInventory;
  readonly #onCopied: (object: ObjectInfo) => void;
  /** Packs and map packs that the secondary holds, by name. */
  readonly #packs: Set<string>;
  readonly #damaged = new Map<string, string>();
  readonly #heldBack: HeldBackPoint[] = [];
  /** Points that the secondary had before, and the last that it got of each item. */
  readonly #pointsThere: readonly PointName[];
  readonly #isThereWhole: boolean;
  readonly #whole = new Map<string, Manifest>();
  readonly #left: ObjectInfo[] = [];
  /** SHA-256 of the manifests that were looked at, hexadecimal. */
  readonly #manifestHashes = new Map<string, string>();
  #isGone = false;

  constructor(
    options: CopyRunOptions,
    state: {
      readonly plan: CopyPlan;
      readonly there: CopyListing;
      readonly inventory: CopyInventory;
    },
    onCopied: (object: ObjectInfo) => void,
  ) {
    this.#options = options;
    this.#plan = state.plan;
    this.#there = state.there;
    this.#inventory = state.inventory;
    this.#onCopied = onCopied;
    this.#pointsThere = state.there.points.flatMap(({ name }) => {
      const parsed = parseStoreName(name);
      return parsed?.kind === "manifest" ? [{ item: parsed.item, pointId: parsed.point }] : [];
    });
    this.#packs = new Set(state.there.data.map(({ name }) => name));
    const listed = [...state.there.data, ...state.there.index];
    this.#isThereWhole = state.inventory.isAllIn(
      new Map(listed.map(({ name, sizeBytes }) => [name, sizeBytes])),
    );
    for (const { name, primaryBytes, secondaryBytes } of state.plan.differing) {
      const reason = `it has ${primaryBytes} bytes in the primary and ${secondaryBytes} in the secondary`;
      this.#packs.delete(name);
      this.#damaged.set(name, reason);
    }
  }

  /** Whether an object is gone that manifests may need: then no further step is done. */
  get isGone(): boolean {
    return this.#isGone;
  }

  /** Objects that are damaged, and were not copied. */
  get damaged(): readonly DamagedObject[] {
    return [...this.#damaged].map(([name, reason]) => ({ name, reason }));
  }

  /** Objects of the plan that the primary holds and the secondary does not. */
  get left(): readonly ObjectInfo[] {
    return this.#left;
  }

  /** Key slots, then the records that list them. */
  async copyKeys(): Promise<void> {
    const { keys } = this.#plan.missing;
    const isSlot = ({ name }: ObjectInfo): boolean => parseStoreName(name)?.kind === "slot";
    await this.#copy(keys.filter(isSlot));
    await this.#copy(keys.filter((object) => !isSlot(object)));
  }

  /** Packs and map packs; the inventory names them before a segment does, as a writer's does. */
  async copyPacks(): Promise<void> {
    const { differing, missing } = this.#plan;
    const isDiffering = new Set(differing.map(({ name }) => name));
    for (const object of [...this.#there.data, ...this.#there.index]) {
      if (!isDiffering.has(object.name)) this.#inventory.note(object);
    }
    await this.#copy(missing.data);
    await this.#inventory.write();
  }

  /**
   * Index segments: those of data packs before those of map packs. One that names a pack which is not
   * there is not copied; what it says of packs that are there is written anew.
   */
  async copySegments(): Promise<void> {
    const later: ObjectInfo[] = [];
    await this.#copy(this.#plan.missing.index, (name, bytes) => {
      const { verdict, packs } = this.#judgeSegment(name, bytes);
      if (verdict.kind !== "put" || packs.every(({ type }) => type === "pack")) return verdict;
      later.push({ name, sizeBytes: bytes.byteLength });
      return { kind: "later" };
    });
    await this.#copy(later, (name, bytes) => this.#judgeSegment(name, bytes).verdict);
    const refused = this.#plan.missing.index.filter(({ name }) => this.#damaged.has(name));
    if (!this.#isGone && refused.length > 0) await this.writeSegments(this.#packsOf(refused));
  }

  /** Writes index segments for those of `packs` that are there and that none names. */
  async writeSegments(packs: AsyncIterable<IndexPack>): Promise<void> {
    const { secondary: store, keys, random, signal } = this.#options;
    await using vault = await this.#openSecondary();
    const onWritten = (segment: ObjectInfo): void => this.#inventory.note(segment);
    const target = { store, keys, random, signal, index: vault.index, onWritten };
    await writeMissingSegments(target, this.#here(packs));
  }

  /**
   * Manifests, oldest first: each after a walk of its maps in the secondary has found everything that it
   * needs there. Returns the points that were held back.
   */
  async copyManifests(): Promise<readonly HeldBackPoint[]> {
    for (const { name } of this.#plan.differing) this.#holdBack(name, this.#damaged.get(name));
    const { primary: from, secondary: to, keys, signal } = this.#options;
    const objects = this.#plan.missing.points;
    if (objects.length === 0) return this.#heldBack;
    await using vault = await this.#openSecondary();
    await this.#distrustAbsent(vault);
    const walk = new PointWalk({ store: to, keys, vault, signal });
    for (const object of objects) {
      signal?.throwIfAborted();
      const outcome = await copyObject({ from, to, signal }, object, async (name, bytes) => {
        return await this.#judgeManifest(name, bytes, { vault, walk });
      });
      this.#note(object, outcome);
    }
    return this.#heldBack;
  }

  async #copy(objects: readonly ObjectInfo[], inspect?: Inspect): Promise<void> {
    const { primary: from, secondary: to, signal } = this.#options;
    await copyObjects({ from, to, signal }, objects, {
      inspect,
      onOutcome: (object, outcome) => this.#note(object, outcome),
    });
  }

  #note(object: ObjectInfo, outcome: CopyOutcome): void {
    const { name } = object;
    const kind = parseStoreName(name)?.kind;
    if (outcome.kind === "copied") {
      if (kind === "pack" || kind === "map-pack") this.#packs.add(name);
      this.#noteInInventory(object);
      this.#onCopied(object);
    } else if (outcome.kind === "gone") {
      // A manifest that is gone was deleted, a key slot removed: nothing rests on either.
      if (kind !== "manifest" && kind !== "slot") this.#isGone = true;
    } else if (outcome.kind !== "later") {
      this.#left.push(object);
      if (outcome.kind === "damaged") this.#damaged.set(name, outcome.reason);
      this.#holdBack(name, outcome.reason);
    }
  }

  #noteInInventory(object: ObjectInfo): void {
    const { name } = object;
    const kind = parseStoreName(name)?.kind;
    if (kind === "slot" || kind === "key-record") return;
    const sha256 = this.#manifestHashes.get(name);
    this.#inventory.note(sha256 === undefined ? object : { ...object, sha256 });
  }

  /**
   * Names segments and manifests in the inventory, also those that an earlier run put before it broke off.
   * Call it last. Errors: those of the secondary.
   */
  async finishInventory(): Promise<void> {
    const { secondary, signal } = this.#options;
    for (const { name } of this.#there.points) {
      if (this.#inventory.knows(name)) continue;
      const parsed = parseStoreName(name);
      assert(parsed?.kind === "manifest", "points are listed by their manifests");
      try {
        const bytes = await secondary.get(name, undefined, signal);
        openManifest(this.#options.keys, bytes, { item: parsed.item, pointId: parsed.point });
        this.#inventory.note({ name, sizeBytes: bytes.byteLength, sha256: toSha256(bytes) });
      } catch (error) {
        const isBad = isUnreadableManifest(error) || isKluisError(error, "ObjectNotFound");
        // Whoever verifies with a key is told; what is damaged must not be what is expected.
        if (!isBad) throw error;
      }
    }
    await this.#inventory.write();
    await this.#inventory.compact();
  }

  /** Notes a point that is not copied, where `name` is that of a manifest. */
  #holdBack(name: string, reason = ""): void {
    const parsed = parseStoreName(name);
    if (parsed?.kind !== "manifest") return;
    this.#heldBack.push({ item: parsed.item, pointId: parsed.point, reason });
  }

  #judgeSegment(
    name: string,
    bytes: Uint8Array,
  ): { readonly verdict: Verdict; readonly packs: readonly IndexPackColumns[] } {
    try {
      const { content } = openContainer(this.#options.keys, { name, bytes, type: "indexSegment" });
      const packs = parseIndexSegment(content);
      const absent = packs.map(objectOfPack).find((pack) => !this.#packs.has(pack));
      if (absent === undefined) return { verdict: { kind: "put" }, packs };
      const reason = `it names "${absent}", which is missing or damaged`;
      return { verdict: { kind: "damaged", reason }, packs };
    } catch (error) {
      return { verdict: damagedBy(error), packs: [] };
    }
  }

  async #judgeManifest(
    name: string,
    bytes: Uint8Array,
    there: { readonly vault: Vault; readonly walk: PointWalk },
  ): Promise<Verdict> {
    const parsed = parseStoreName(name);
    assert(parsed?.kind === "manifest", "the last step copies manifests");
    const point = { item: parsed.item, pointId: parsed.point };
    let manifest: Manifest;
    try {
      manifest = openManifest(this.#options.keys, bytes, point);
      this.#manifestHashes.set(name, toSha256(bytes));
    } catch (error) {
      if (!isUnreadableManifest(error)) throw error;
      return { kind: "damaged", reason: error.message };
    }
    let absent: string | undefined;
    const known = this.#whole.get(point.item) ?? (await this.#readPointThere(there.vault, point));
    const broken = await there.walk.walk(manifest, known, (pack) => {
      if (!this.#packs.has(pack)) absent ??= `it needs "${pack}", which is missing or damaged`;
    });
    const reason = absent ?? broken;
    if (reason !== undefined) return { kind: "held-back", reason };
    this.#whole.set(point.item, manifest);
    return { kind: "put" };
  }

  /** Where another pack has the block that one had which is gone, that one counts. */
  async #distrustAbsent({ index }: Vault): Promise<void> {
    const absent: Uint8Array[] = [];
    for await (const { head } of index.packExtents()) {
      if (!this.#packs.has(objectOfPack(head))) absent.push(head.name);
    }
    if (absent.length > 0) await index.setDistrusted("defect", absent);
  }

  /**
   * A point of the item that got over earlier, and so was found whole: where nothing was lost since, by what the
   * secondary lists and its inventory expects. Otherwise all of the next point is walked.
   */
  async #readPointThere(vault: Vault, { item }: PointName): Promise<Manifest | undefined> {
    if (!this.#isThereWhole) return undefined;
    const names = this.#pointsThere.filter(
      (name) => name.item === item && this.#inventory.expects(pointName(name.item, name.pointId)),
    );
    const newest = names.toSorted((a, b) => (a.pointId < b.pointId ? -1 : 1)).at(-1);
    if (newest === undefined) return undefined;
    try {
      return await vault.readPoint(newest, this.#options.signal);
    } catch (error) {
      const isNone = isKluisError(error, "RecoveryPointNotFound");
      if (isNone || isUnreadableManifest(error)) return undefined;
      throw error;
    }
  }

  /** The packs of index segments of the primary, as far as those can be read. */
  async *#packsOf(segments: readonly ObjectInfo[]): AsyncGenerator<IndexPack> {
    const { primary: store, keys, signal } = this.#options;
    for (const { name } of segments) {
      const parsed = parseStoreName(name);
      assert(parsed?.kind === "index-segment", "only index segments name packs");
      try {
        const packs = await readIndexSegment({ store, keys, signal }, parsed.sha256);
        for (const columns of packs) yield fromIndexColumns(columns);
      } catch (error) {
        if (isKluisError(error, "ObjectNotFound")) this.#isGone = true;
        else damagedBy(error);
      }
    }
  }

  async *#here(packs: AsyncIterable<IndexPack>): AsyncGenerator<IndexPack> {
    for await (const pack of packs) if (this.#packs.has(objectOfPack(pack))) yield pack;
  }

  async #openSecondary(): Promise<Vault> {
    return await openVaultOf(this.#options, this.#options.secondary);
  }
}

function toSha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The verdict on an object that did not open. Rethrows what says nothing about its bytes. */
function damagedBy(error: unknown): Verdict {
  if (!isKluisError(error, "ObjectCorrupt")) throw error;
  return { kind: "damaged", reason: error.message };
}
