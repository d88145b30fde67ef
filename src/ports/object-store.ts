/**
 * Where a vault keeps its objects: a flat space of names, each written once.
 *
 * Names are `segment/segment…` of `[a-z0-9._-]`, at most 200 characters; no segment starts with a
 * dot and the first is not `tmp` (`src/formats/object-name.ts`; any other name is ArgumentInvalid).
 * No object is ever overwritten: what a vault writes is immutable, and {@link ObjectStore.put} is
 * put-if-absent, the one commit primitive. Every driver passes
 * `src/testing/suites/object-store-suite.ts`.
 */

/** Name and size of one stored object. */
export interface ObjectInfo {
  readonly name: string;
  readonly sizeBytes: number;
}

/** What a put did: this call wrote the object, or one of that name was there and stays. */
export type PutOutcome = "created" | "exists";

/** A range of an object's bytes. */
export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/**
 * What a store adds whose objects nobody can remove before a time (docs/adr/0009-immutability.md).
 * Times are milliseconds since 1970 by the clock of the store, which no host can turn.
 */
export interface ObjectLocks {
  readonly policy: { readonly periodMs: number; readonly generationMs: number };
  nowMs(signal?: AbortSignal): Promise<number>;
  /**
   * Whether the lock of an object ends before that time; also where it has none, and where there is
   * no such object. Costs a request only for what was put generations ago.
   */
  endsBefore(name: string, timeMs: number, signal?: AbortSignal): Promise<boolean>;
  /** Names below `prefix` that are to be locked and are not yet: their commit was cut off. */
  unlocked(prefix: string, signal?: AbortSignal): AsyncIterable<string>;
  /** Locks an object until that time at least; a lock is never shortened. ObjectNotFound (never). */
  extend(name: string, untilMs: number, signal?: AbortSignal): Promise<void>;
}

/**
 * The store port.
 *
 * All methods may be called concurrently and from several processes and hosts at once. Errors are
 * `KluisError`: StoreUnavailable (retry: backoff), StoreNoSpace, StoreDenied (after-change),
 * ObjectNotFound (never).
 */
export interface ObjectStore {
  /** Where the store is, for messages; holds no credential. */
  readonly location: string;
  /** Only where objects are locked: then `remove` and deletion marks may be refused with ObjectLocked (after-change). */
  readonly locks?: ObjectLocks;
  /**
   * Writes the object if none of that name exists, atomically: of any number of racing calls one
   * returns `created`. On return the object and its name are durable, in both outcomes. A failed
   * call leaves either no object or the whole one.
   *
   * @param parts The content, in order; at most 64 MiB together. Not changed, not kept.
   */
  put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome>;
  /** The whole object, or one range of it; the caller owns the bytes. A range past the end is ObjectCorrupt. */
  get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array>;
  /** Size of one object; `undefined` where there is none. */
  stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined>;
  /** Every object whose name starts with `prefix` (ends in `/`, or is empty), in no order. No snapshot in time. */
  list(prefix: string, signal?: AbortSignal): AsyncIterable<ObjectInfo>;
  /** Removes the object durably; it is no error if there is none. */
  remove(name: string, signal?: AbortSignal): Promise<void>;
  /** Races writers on one name and proves put-if-absent; throws StoreUnsuitable where the store cannot commit. */
  probe(signal?: AbortSignal): Promise<void>;
}
