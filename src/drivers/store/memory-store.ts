/** A store in the memory of this process, for tests and measurements. */
import { concatBytes } from "#base/bytes.ts";
import { assertObjectName, assertObjectPrefix } from "#formats/object-name.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { assertRange, measureParts, objectNotFound, rangePastEnd } from "./store-arguments.ts";

/**
 * Builds a store that holds `objects` (name and content; copied) and lives as long as the process.
 * It keeps the port's promises except durability: there is nothing that it could outlive.
 */
export function createMemoryStore(
  objects: Iterable<readonly [string, Uint8Array]> = [],
): ObjectStore {
  return new MemoryStore(objects);
}

class MemoryStore implements ObjectStore {
  readonly location = "memory:";
  readonly #objects = new Map<string, Uint8Array>();

  constructor(objects: Iterable<readonly [string, Uint8Array]>) {
    for (const [name, content] of objects) {
      assertObjectName(name);
      this.#objects.set(name, content.slice());
    }
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    assertObjectName(name);
    measureParts(parts);
    signal?.throwIfAborted();
    if (this.#objects.has(name)) return "exists";
    this.#objects.set(name, concatBytes(parts));
    return "created";
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    assertObjectName(name);
    if (range !== undefined) assertRange(range);
    signal?.throwIfAborted();
    const content = this.#objects.get(name);
    if (content === undefined) throw objectNotFound(name);
    if (range === undefined) return content.slice();
    const end = range.offsetBytes + range.lengthBytes;
    if (end > content.byteLength) throw rangePastEnd(name, range, content.byteLength);
    return content.slice(range.offsetBytes, end);
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    assertObjectName(name);
    signal?.throwIfAborted();
    const content = this.#objects.get(name);
    return content === undefined ? undefined : { name, sizeBytes: content.byteLength };
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    assertObjectPrefix(prefix);
    for (const [name, content] of this.#objects) {
      signal?.throwIfAborted();
      if (name.startsWith(prefix)) yield { name, sizeBytes: content.byteLength };
    }
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    assertObjectName(name);
    signal?.throwIfAborted();
    this.#objects.delete(name);
  }

  /** One thread and a map: put-if-absent holds by construction. */
  async probe(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
  }
}
