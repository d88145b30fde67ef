/**
 * A store in a bucket or container: the port's promises on top of single requests, the same for all
 * services. See docs/adr/0007-cloud-stores.md.
 */
import { toHex } from "#base/bytes.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom, type RandomSource } from "#base/random.ts";
import {
  assertObjectName,
  assertObjectPrefix,
  isObjectName,
  reservedSegment,
} from "#formats/object-name.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { assertRange, measureParts, objectNotFound, rangePastEnd } from "../store-arguments.ts";
import { RequestFailure, type BlobPage, type BlobService } from "./blob-service.ts";
import { collect, isAfter } from "./collect.ts";
import { probeStore } from "./probe.ts";
import { isUnavailable, Requests, type Call } from "./requests.ts";
import { UploadBody } from "./upload-body.ts";

const putIdBytes = 16;
/** Pages without a key that may follow each other; services skip what was removed in this way. */
const emptyPagesMax = 1000;

/** What a cloud store is built from. */
export interface CloudStoreOptions {
  readonly service: BlobService;
  /** What the keys of all objects start with: empty, or ends in `/`. */
  readonly prefix: string;
  readonly clock?: Clock;
  readonly random?: RandomSource;
}

/** The store port on a {@link BlobService}. */
export class CloudStore implements ObjectStore {
  readonly location: string;
  readonly #service: BlobService;
  readonly #prefix: string;
  readonly #random: RandomSource;
  readonly #requests: Requests;

  constructor(options: CloudStoreOptions) {
    const { service, prefix, clock = systemClock, random = systemRandom } = options;
    this.location = service.location;
    this.#service = service;
    this.#prefix = prefix;
    this.#random = random;
    this.#requests = new Requests({ clock, random });
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    assertObjectName(name);
    return this.#put(name, parts, signal);
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    assertObjectName(name);
    if (range !== undefined) assertRange(range);
    return this.#get(name, range, signal);
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    assertObjectName(name);
    const call = this.#requests.begin(`look up object "${name}"`, signal);
    const key = this.#keyOf(name);
    const info = await this.#requests.send(call, (attempt) => this.#service.stat(key, attempt));
    return info === undefined ? undefined : { name, sizeBytes: info.sizeBytes };
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    assertObjectPrefix(prefix);
    for await (const { name, sizeBytes } of this.#listKeys(prefix, signal)) {
      if (isObjectName(name)) yield { name, sizeBytes };
    }
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    assertObjectName(name);
    const call = this.#requests.begin(`remove object "${name}"`, signal);
    const key = this.#keyOf(name);
    await this.#requests.send(call, (attempt) => this.#service.remove(key, attempt));
  }

  async probe(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    await probeStore(
      {
        location: this.location,
        put: (name, content) => this.#put(name, [content], signal),
        get: (name, range) => this.#get(name, range, signal),
        stat: (name) => {
          const call = this.#requests.begin(`look up "${name}"`, signal);
          return this.#requests.send(call, (one) => this.#service.stat(this.#keyOf(name), one));
        },
        remove: async (name) => {
          const call = this.#requests.begin(`remove "${name}"`, signal);
          const key = this.#keyOf(name);
          await this.#requests.send(call, (one) => this.#service.remove(key, one));
          await this.#requests.send(call, (one) => this.#service.removeVersions(key, one));
        },
      },
      this.#random,
    );
  }

  /**
   * Throws StoreForeign (after-change) where the first page of a listing holds what is no object of a
   * vault.
   */
  async assertNoForeignBlobs(signal?: AbortSignal): Promise<void> {
    const call = this.#requests.begin(`create a store in "${this.location}"`, signal);
    const page = await this.#page("", undefined, call);
    for (const { name: key } of page.blobs) {
      const name = key.slice(this.#prefix.length);
      if (isObjectName(name) || name.startsWith(`${reservedSegment}/`)) continue;
      throw new KluisError(
        "StoreForeign",
        `Cannot create a store in "${this.location}": it holds ${JSON.stringify(name.slice(0, 200))}, ` +
          "which is not Kluis's",
      );
    }
  }

  #keyOf(name: string): string {
    return `${this.#prefix}${name}`;
  }

  /** Also for names of the probe, which are no object's. */
  async #put(
    name: string,
    parts: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<PutOutcome> {
    measureParts(parts);
    const call = this.#requests.begin(`write object "${name}"`, signal);
    const key = this.#keyOf(name);
    const body = new UploadBody(parts);
    const putId = toHex(this.#random.bytes(putIdBytes));
    try {
      for (;;) {
        let failure: unknown = new RequestFailure("unavailable", "an object came and went");
        try {
          const write = { body, putId };
          if (await this.#requests.once(call, (one) => this.#service.put(key, write, one))) {
            return "created";
          }
        } catch (error) {
          if (!isUnavailable(error)) throw this.#requests.toError(call, error);
          failure = error;
        }
        const outcome = await this.#readBack(key, { body, putId }, call);
        if (outcome !== undefined) return outcome;
        await this.#requests.pauseAfter(call, failure);
      }
    } finally {
      body.close();
    }
  }

  /**
   * Whose object has the name now: the answer to an attempt, this one or an earlier, may have been
   * lost. `undefined` where there is none, or where that cannot be told.
   */
  async #readBack(
    key: string,
    content: { readonly body: UploadBody; readonly putId: string },
    call: Call,
  ): Promise<PutOutcome | undefined> {
    let info;
    try {
      info = await this.#requests.once(call, (attempt) => this.#service.stat(key, attempt));
    } catch (error) {
      if (isUnavailable(error)) return undefined;
      throw this.#requests.toError(call, error);
    }
    if (info === undefined) return undefined;
    const isOurs = info.putId === content.putId && info.sizeBytes === content.body.sizeBytes;
    return isOurs ? "created" : "exists";
  }

  async #get(
    name: string,
    range: ByteRange | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    const call = this.#requests.begin(`read object "${name}"`, signal);
    if (range?.lengthBytes === 0) return this.#getNothing(name, range, call);
    const asked = range && {
      first: range.offsetBytes,
      last: range.offsetBytes + range.lengthBytes - 1,
    };
    const key = this.#keyOf(name);
    return this.#requests.send(call, async (attempt) => {
      try {
        const read = await this.#service.get(key, asked, attempt);
        try {
          return await collect(name, read, range);
        } finally {
          read.close();
        }
      } catch (error) {
        if (!(error instanceof RequestFailure)) throw error;
        if (error.kind === "missing") throw objectNotFound(name);
        if (error.kind !== "range" || range === undefined) throw error;
        const info = await this.#service.stat(key, attempt);
        if (info === undefined) throw objectNotFound(name);
        throw rangePastEnd(name, range, info.sizeBytes);
      }
    });
  }

  /** HTTP has no empty ranges. */
  async #getNothing(name: string, range: ByteRange, call: Call): Promise<Uint8Array> {
    const key = this.#keyOf(name);
    const info = await this.#requests.send(call, (attempt) => this.#service.stat(key, attempt));
    if (info === undefined) throw objectNotFound(name);
    if (range.offsetBytes > info.sizeBytes) throw rangePastEnd(name, range, info.sizeBytes);
    return new Uint8Array(0);
  }

  /** Names below `prefix` without the store's own prefix, whatever their form. */
  async *#listKeys(prefix: string, signal: AbortSignal | undefined): AsyncGenerator<ObjectInfo> {
    let token: string | undefined;
    let last = "";
    let emptyPages = 0;
    do {
      const call = this.#requests.begin(`list objects of "${prefix}"`, signal);
      const page = await this.#page(prefix, token, call);
      for (const { name: key, sizeBytes } of page.blobs) {
        if (!isAfter(key, last) || !key.startsWith(this.#prefix)) {
          throw new KluisError(
            "StoreUnavailable",
            `Cannot ${call.doing}: the listing has no order`,
          );
        }
        last = key;
        signal?.throwIfAborted();
        yield { name: key.slice(this.#prefix.length), sizeBytes };
      }
      emptyPages = page.blobs.length === 0 ? emptyPages + 1 : 0;
      if (emptyPages > emptyPagesMax) {
        throw new KluisError("StoreUnavailable", `Cannot ${call.doing}: the listing does not end`);
      }
      token = page.next;
    } while (token !== undefined);
  }

  async #page(prefix: string, token: string | undefined, call: Call): Promise<BlobPage> {
    const below = this.#keyOf(prefix);
    return this.#requests.send(call, (one) => this.#service.listPage(below, token, one));
  }
}
