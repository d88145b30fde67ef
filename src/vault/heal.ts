/**
 * Heals a vault from another copy of it: a secondary from its primary, or the other way round;
 * docs/design/redundancy.md says what is healed, and why no crash makes anything worse.
 */
import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { type IndexPack, parseIndexSegment } from "#formats/index-segment.ts";
import type { Manifest } from "#formats/manifest.ts";
import { indexPrefix, parseStoreName, pointName, vaultHeaderName } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import { CopyInventory } from "#vault/copy/copy-inventory.ts";
import { healKeys } from "#vault/copy/heal-keys.ts";
import { copyObject, forEachObject, readSound } from "#vault/copy/copy-objects.ts";
import { PointWalk } from "#vault/copy/reach.ts";
import { openVaultOf } from "#vault/copy/open-vault-of.ts";
import { objectOfPack, writeMissingSegments } from "#vault/copy/write-segments.ts";
import { runSteps } from "#vault/gc/run-steps.ts";
import { readCondemned } from "#vault/gc/session-protocol.ts";
import { describeLostSlot } from "#vault/keys/lost-access.ts";
import { listKeySlots } from "#vault/keys/slots.ts";
import type { DamagedObject, HealedObject, HealOptions, HealReport } from "#vault/copy-report.ts";
import { isUnreadableManifest } from "#vault/open-manifest.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import { readVaultHeader } from "#vault/vault-files.ts";
import { isInventoried } from "#vault/verify/store-check.ts";

/** Calls that replace a damaged object before it is left missing; the next run puts it. */
const putAttemptsMax = 3;

/**
 * Reads every object of `store` and brings what is damaged or missing from `copy`, a vault of the same
 * id. What could not be healed is in the report, not thrown. Runs may overlap, and go on where one
 * broke off.
 *
 * Errors: StoreNotEmpty (after-change) where the two are different vaults; those of the stores.
 */
export async function healVault(options: HealOptions): Promise<HealReport> {
  return await new Healing(options).run();
}

class Healing {
  readonly #options: HealOptions;
  readonly #healed: HealedObject[] = [];
  readonly #unhealed = new Map<string, string>();
  /** What a collection means to remove: it is left to that. */
  readonly #condemned = new Set<string>();
  /** Index segments that were written anew. */
  readonly #written: string[] = [];
  #objects = 0;
  #bytes = 0;

  constructor(options: HealOptions) {
    this.#options = options;
  }

  async run(): Promise<HealReport> {
    const { copy, keys, signal } = this.#options;
    const { vaultId } = await readVaultHeader(copy, signal);
    if (!bytesEqual(vaultId, keys.vaultId)) throw otherVault(copy);
    await this.#healHeader();
    await this.#readCondemned();
    await this.#healDamaged();
    await healKeys(this.#options, {
      replace: (name, good, was) => this.#replace(name, good, was),
      onHealed: (object) => this.#healed.push(object),
      onUnhealed: (name, reason) => this.#unhealed.set(name, reason),
    });
    await this.#healMissing();
    await this.#nameInInventory();
    const unhealed: DamagedObject[] = [...this.#unhealed].map(([name, reason]) => ({
      name,
      reason,
    }));
    const counts = { objectsChecked: this.#objects, bytesRead: this.#bytes };
    return { ...counts, healed: this.#healed, unhealed };
  }

  /** A place counts as this vault by its header, or, where that cannot be read, by its key slots. */
  async #healHeader(): Promise<void> {
    const { store, copy, keys, signal } = this.#options;
    let was: HealedObject["was"] = "damaged";
    try {
      const { vaultId } = await readVaultHeader(store, signal);
      if (!bytesEqual(vaultId, keys.vaultId)) throw otherVault(store);
      return;
    } catch (error) {
      const isGone = isKluisError(error, "ObjectNotFound");
      const isBad = isKluisError(error, "ObjectCorrupt") || isKluisError(error, "StoreForeign");
      if (!isGone && !isBad) throw error;
      const { slots } = await listKeySlots(store, keys.vaultId, signal);
      if (slots.length === 0) throw error;
      if (isGone) was = "missing";
    }
    await this.#replace(vaultHeaderName, await copy.get(vaultHeaderName, undefined, signal), was);
  }

  async #readCondemned(): Promise<void> {
    const records = await runSteps(readCondemned("condemned-is-absent"), this.#options);
    for (const { body } of records) {
      for (const name of [...body.packs, ...body.segments]) this.#condemned.add(name);
    }
  }

  /** Objects that are not what their names say. */
  async #healDamaged(): Promise<void> {
    const { store, signal, onProgress } = this.#options;
    const objects: ObjectInfo[] = [];
    let totalBytes = 0;
    for await (const object of store.list("", signal)) {
      const parsed = parseStoreName(object.name);
      if (parsed === undefined || !("sha256" in parsed)) continue;
      if (this.#condemned.has(object.name)) continue;
      objects.push(object);
      totalBytes += object.sizeBytes;
    }
    await forEachObject(objects, signal, async ({ name, sizeBytes }) => {
      const read = await readSound(store, name, signal);
      this.#objects++;
      this.#bytes += sizeBytes;
      onProgress?.(this.#bytes, totalBytes);
      if (!("bytes" in read) && read.kind === "damaged") await this.#bring(name, read.reason);
    });
  }

  /** Brings a damaged object from the copy, whose bytes are hashed first. */
  async #bring(name: string, reason: string): Promise<void> {
    const { store, copy, signal } = this.#options;
    const good = await readSound(copy, name, signal);
    if ("bytes" in good) {
      await this.#replace(name, good.bytes, "damaged");
      return;
    }
    const isSlot = parseStoreName(name)?.kind === "slot";
    const loss = isSlot ? `: ${await describeLostSlot(store, name, signal)}` : "";
    const why = good.kind === "gone" ? "lacks it" : "is damaged too";
    this.#unhealed.set(name, `${reason}; the copy ${why}${loss}`);
  }

  /** What is there under the name is known to be wrong; `good` is in memory until it is durable. */
  async #replace(name: string, good: Uint8Array, was: HealedObject["was"]): Promise<void> {
    const { store, signal } = this.#options;
    signal?.throwIfAborted();
    // From here to the end of the put nothing may break this off but an error of the store.
    if (was !== "missing") await this.#removeWrong(name);
    for (let attempt = 1; ; attempt++) {
      try {
        await store.put(name, [good]);
        break;
      } catch (error) {
        if (attempt === putAttemptsMax || !isKluisError(error, "StoreUnavailable")) throw error;
      }
    }
    if (await this.#isThere(name, good)) this.#healed.push({ name, was });
    else this.#unhealed.set(name, "other bytes lie under this name, and are locked");
  }

  /** A name that is no hash may still stand for what was there: the put was refused then. */
  async #isThere(name: string, good: Uint8Array): Promise<boolean> {
    const parsed = parseStoreName(name);
    if (parsed !== undefined && "sha256" in parsed) return true;
    return bytesEqual(await this.#options.store.get(name), good);
  }

  /** Where it is locked the good bytes are put beside it, and count: their hash is the name. */
  async #removeWrong(name: string): Promise<void> {
    try {
      await this.#options.store.remove(name);
    } catch (error) {
      if (!isKluisError(error, "ObjectLocked")) throw error;
    }
  }

  /** What was missing, or is new, is missed without a key when it goes again. */
  async #nameInInventory(): Promise<void> {
    const { store, keys, signal } = this.#options;
    const missing = this.#healed.filter(({ was }) => was === "missing").map(({ name }) => name);
    const names = [...missing, ...this.#written].filter(isInventoried);
    if (names.length === 0) return;
    const inventory = await CopyInventory.open({ store, keys, signal });
    for (const name of names) {
      const info = inventory.knows(name) ? undefined : await store.stat(name, signal);
      if (info !== undefined) inventory.note(info);
    }
    await inventory.write();
  }

  /** Packs and index segments that points need and the store does not list. */
  async #healMissing(): Promise<void> {
    const { store, keys, signal } = this.#options;
    await using vault = await openVaultOf(this.#options, store);
    const walk = new PointWalk({ store, keys, vault, signal });
    let areSegmentsBack = false;
    const whole = new Map<string, Manifest>();
    for (const point of await vault.listPoints(undefined, signal)) {
      const manifest = await this.#readManifest(vault, point);
      if (manifest === undefined) continue;
      const pair = { manifest, known: whole.get(point.item) };
      let broken = await this.#healPoint(walk, pair);
      if (broken !== undefined && !areSegmentsBack) {
        areSegmentsBack = true;
        await this.#bringSegments();
        vault.locator.expectMore();
        await vault.locator.refresh();
        broken = await this.#healPoint(walk, pair);
      }
      if (broken !== undefined && (await this.#bringReach(vault, manifest))) {
        broken = await this.#healPoint(walk, pair);
      }
      if (broken === undefined) whole.set(point.item, manifest);
      else this.#unhealed.set(pointName(point.item, point.pointId), broken);
    }
  }

  async #readManifest(vault: Vault, point: PointName): Promise<Manifest | undefined> {
    try {
      return await vault.readPoint(point, this.#options.signal);
    } catch (error) {
      if (isKluisError(error, "RecoveryPointNotFound")) return undefined;
      if (!isUnreadableManifest(error)) throw error;
      this.#unhealed.set(pointName(point.item, point.pointId), error.message);
      return undefined;
    }
  }

  /** Walks a point and puts the packs that are missing on the way; returns what is wrong all the same. */
  async #healPoint(
    walk: PointWalk,
    { manifest, known }: { readonly manifest: Manifest; readonly known: Manifest | undefined },
  ): Promise<string | undefined> {
    const needed = new Set<string>();
    for (;;) {
      const before = this.#healed.length;
      const broken = await walk.walk(manifest, known, (pack) => needed.add(pack));
      const absent = await this.#putMissing(needed);
      if (absent !== undefined) return absent;
      // A map pack that was missing stopped the walk, which goes further now that it is back.
      if (broken === undefined || this.#healed.length === before) return broken;
    }
  }

  /** Puts those of `packs` that are missing; returns why one cannot be. */
  async #putMissing(packs: Set<string>): Promise<string | undefined> {
    const { store, copy, signal } = this.#options;
    for (const name of packs) {
      packs.delete(name);
      if ((await store.stat(name, signal)) !== undefined) continue;
      if (this.#condemned.has(name)) return `it needs "${name}", which is being collected`;
      const outcome = await copyObject({ from: copy, to: store, signal }, { name });
      if (outcome.kind !== "copied") return `it needs "${name}", which the copy cannot give either`;
      this.#healed.push({ name, was: "missing" });
    }
    return undefined;
  }

  /** Index segments of the copy that are missing here and of which every pack is here. */
  async #bringSegments(): Promise<void> {
    const { store, copy, keys, signal } = this.#options;
    const from = { from: copy, to: store, signal };
    for await (const { name } of copy.list(indexPrefix, signal)) {
      if (this.#condemned.has(name)) continue;
      if ((await store.stat(name, signal)) !== undefined) continue;
      const outcome = await copyObject(from, { name }, async (_, bytes) => {
        const { content } = openContainer(keys, { name, bytes, type: "indexSegment" });
        for (const pack of parseIndexSegment(content)) {
          if ((await store.stat(objectOfPack(pack), signal)) === undefined)
            return { kind: "later" };
        }
        return { kind: "put" };
      });
      if (outcome.kind === "copied") this.#healed.push({ name, was: "missing" });
    }
  }

  /**
   * For a point that no index here leads through: brings every pack that it needs in the copy, with index
   * segments for them. Whether there was anything to bring.
   */
  async #bringReach(vault: Vault, manifest: Manifest): Promise<boolean> {
    const { store, copy, keys, random, signal } = this.#options;
    const before = this.#healed.length;
    await using other = await openVaultOf(this.#options, copy);
    const needed = new Set<string>();
    const walk = new PointWalk({ store: copy, keys, vault: other, signal });
    await walk.walk(manifest, undefined, (pack) => needed.add(pack));
    if ((await this.#putMissing(new Set(needed))) !== undefined) return false;
    // Segments that waited for these packs; what they name need not be named anew.
    await this.#bringSegments();
    vault.locator.expectMore();
    await vault.locator.refresh();
    async function* packs(): AsyncGenerator<IndexPack> {
      for await (const pack of other.index.packs()) if (needed.has(objectOfPack(pack))) yield pack;
    }
    const onWritten = ({ name }: ObjectInfo): void => void this.#written.push(name);
    const target = { store, keys, random, signal, index: vault.index, onWritten };
    const bytes = await writeMissingSegments(target, packs());
    return bytes > 0 || this.#healed.length > before;
  }
}

function otherVault(store: ObjectStore): KluisError {
  return new KluisError(
    "StoreNotEmpty",
    `Cannot heal with "${store.location}": it is another vault`,
  );
}
