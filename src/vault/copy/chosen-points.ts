/** Recovery points of a vault that are to be copied without the others, and what they need. */
import type { IndexPack } from "#formats/index-segment.ts";
import type { Manifest } from "#formats/manifest.ts";
import { pointName } from "#formats/store-names.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import type { CopyRunOptions, HeldBackPoint } from "#vault/copy-report.ts";
import type { CopyListing } from "./plan-copy.ts";
import { openVaultOf } from "./open-vault-of.ts";
import { PointWalk } from "./reach.ts";
import { objectOfPack } from "./write-segments.ts";

/** See the file's head; keeps the index of the primary open. */
export class ChosenPoints implements AsyncDisposable {
  readonly #vault: Vault;
  readonly #objects = new Set<string>();
  /** Points that cannot be restored from the primary, as far as index and maps say it. */
  readonly heldBack: HeldBackPoint[] = [];

  private constructor(vault: Vault) {
    this.#vault = vault;
  }

  /** Opens the primary and walks the points. RecoveryPointNotFound (after-change); errors of stores. */
  static async open(options: CopyRunOptions, points: readonly PointName[]): Promise<ChosenPoints> {
    const { primary, keys, signal } = options;
    const vault = await openVaultOf(options, primary);
    const chosen = new ChosenPoints(vault);
    try {
      await chosen.#walk(points, new PointWalk({ store: primary, keys, vault, signal }), signal);
      return chosen;
    } catch (error) {
      await vault[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What of a listing the points need; no index segments, for those name other packs as well. */
  narrow(listing: CopyListing): CopyListing {
    return {
      keys: listing.keys,
      data: listing.data.filter(({ name }) => this.#objects.has(name)),
      index: [],
      points: listing.points.filter(({ name }) => this.#objects.has(name)),
    };
  }

  /** The packs that the points need, as the primary's index knows them. */
  async *packs(): AsyncGenerator<IndexPack> {
    for await (const pack of this.#vault.index.packs()) {
      if (this.#objects.has(objectOfPack(pack))) yield pack;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vault[Symbol.asyncDispose]();
  }

  async #walk(
    points: readonly PointName[],
    walk: PointWalk,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const whole = new Map<string, Manifest>();
    for (const point of points) {
      const manifest = await this.#vault.readPoint(point, signal);
      const known = whole.get(point.item);
      const reason = await walk.walk(manifest, known, (name) => this.#objects.add(name));
      if (reason === undefined) {
        this.#objects.add(pointName(point.item, point.pointId));
        whole.set(point.item, manifest);
      } else this.heldBack.push({ ...point, reason });
    }
  }
}
