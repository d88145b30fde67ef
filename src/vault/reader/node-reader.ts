/** Reads map nodes: a frame is fetched and opened once for all nodes in it that are asked for. */
import { ByteCache } from "#base/byte-cache.ts";
import { present } from "#base/assert.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { nodeCacheBytes } from "#vault/limits.ts";
import type { MapAccess } from "#vault/map/map-source.ts";
import { frameKeyOf, type Locator, objectNameOf, withCopies } from "#vault/reader/locate.ts";

/** Reads nodes of one vault; keeps `nodeCacheBytes` of opened frames. */
export class NodeReader implements MapAccess {
  readonly nodeIdKey: Uint8Array;
  readonly #store: ObjectStore;
  readonly #keys: VaultKeys;
  readonly #locator: Locator;
  readonly #frames = new ByteCache<Uint8Array>(nodeCacheBytes);

  constructor(deps: {
    readonly store: ObjectStore;
    readonly keys: VaultKeys;
    readonly locator: Locator;
  }) {
    this.nodeIdKey = deps.keys.nodeIdKey;
    this.#store = deps.store;
    this.#keys = deps.keys;
    this.#locator = deps.locator;
  }

  /** See `MapSource`. Nodes are views of the frames that hold them. */
  readonly source = (
    ids: readonly Uint8Array[],
    signal?: AbortSignal,
  ): Promise<readonly Uint8Array[]> => withCopies(this.#locator, () => this.#read(ids, signal));

  async #read(
    ids: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<readonly Uint8Array[]> {
    const locations = await Promise.all(ids.map((id) => this.#locator.locate(id)));
    const opened = new Map<string, Promise<Uint8Array>>();
    for (const location of locations) {
      const key = frameKeyOf(location);
      if (!opened.has(key)) opened.set(key, this.#open(key, location, signal));
    }
    await Promise.all(opened.values());
    return await Promise.all(
      locations.map(async (location) => {
        const plain = await present(opened.get(frameKeyOf(location)), "the frame was opened");
        const { offsetBytes, lengthBytes } = location;
        return plain.subarray(offsetBytes, offsetBytes + lengthBytes);
      }),
    );
  }

  async #open(key: string, location: BlockLocation, signal?: AbortSignal): Promise<Uint8Array> {
    const cached = this.#frames.get(key);
    if (cached !== undefined) return cached;
    const name = objectNameOf(location);
    const { frameOffsetBytes, frameSealedBytes, framePlainBytes, pack } = location;
    const range = { offsetBytes: frameOffsetBytes, lengthBytes: frameSealedBytes };
    const bytes = await this.#store.get(name, range, signal);
    const expected = { sealedBytes: frameSealedBytes, plainBytes: framePlainBytes };
    const plain = openFetchedFrame(sealOf(this.#keys, pack), bytes, expected, name);
    this.#frames.set(key, plain, plain.byteLength);
    return plain;
  }
}
