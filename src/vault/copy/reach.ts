/** Which packs a recovery point needs, and whether all of them are there. */
import { KluisError } from "#base/kluis-error.ts";
import type { Manifest } from "#formats/manifest.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import type { MapAccess } from "#vault/map/map-source.ts";
import { objectNameOf } from "#vault/reader/locate.ts";
import { NodeReader } from "#vault/reader/node-reader.ts";
import type { Vault } from "#vault/vault.ts";
import { Damage } from "#vault/verify/damage.ts";
import { checkMap } from "#vault/verify/map-check.ts";

/** Where points are walked. */
export interface WalkDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly vault: Vault;
  readonly signal: AbortSignal | undefined;
}

/** Walks the maps of recovery points; keeps opened nodes. */
export class PointWalk {
  readonly #deps: WalkDeps;
  readonly #nodes: NodeReader;

  constructor(deps: WalkDeps) {
    this.#deps = deps;
    this.#nodes = new NodeReader({ ...deps, locator: deps.vault.locator });
  }

  /**
   * Tells `onPack` the object of every pack, map packs too, that restoring `manifest` needs; what `known`
   * has at the same place is taken as told. Returns why the point cannot be restored, as far as index
   * and maps say it. StoreUnavailable (backoff).
   */
  async walk(
    manifest: Manifest,
    known: Manifest | undefined,
    onPack: (objectName: string) => void,
  ): Promise<string | undefined> {
    const { vault, signal } = this.#deps;
    const access: MapAccess = {
      nodeIdKey: this.#nodes.nodeIdKey,
      source: async (ids, given) => {
        for (const id of ids) onPack(objectNameOf(await vault.locator.locate(id)));
        return await this.#nodes.source(ids, given);
      },
    };
    let problem: string | undefined;
    for (const disk of manifest.disks) {
      const check = {
        map: disk,
        known: known?.disks.find(({ name }) => name === disk.name),
        access,
        index: vault.index,
        damage: new Damage(),
        onBlock: (location: Parameters<typeof objectNameOf>[0]) => onPack(objectNameOf(location)),
        signal,
      };
      for await (const { verdict, reason } of checkMap(check)) {
        if (verdict === "damaged") problem ??= reason;
        else throw new KluisError("StoreUnavailable", `Cannot walk a recovery point: ${reason}`);
      }
    }
    return problem;
  }
}
