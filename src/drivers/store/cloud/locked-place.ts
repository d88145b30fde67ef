/**
 * A place where objects are locked, and every version of a name is kept; internal to this folder and
 * to the drivers beside it. See docs/adr/0009-immutability.md.
 *
 * Every name ends in the SHA-256 of its content. What is under a name is the version whose hash that
 * is: delete markers count for nothing, and versions that were put later only where the first is wrong.
 */
import { createHash } from "node:crypto";

import { systemClock, type Clock } from "#base/clock.ts";
import { toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { systemRandom, type RandomSource } from "#base/random.ts";
import { lockEndOf, type LockPolicy } from "#formats/lock-policy.ts";
import type { ByteRange } from "#ports/object-store.ts";
import { measureParts, objectNotFound, rangePastEnd } from "../store-arguments.ts";
import {
  RequestFailure,
  type BlobVersion,
  type LockService,
  type VersionToken,
} from "./blob-service.ts";
import { collect, isAfter } from "./collect.ts";
import { LockMemory, type LockedObject } from "./lock-memory.ts";
import { Requests, type Call } from "./requests.ts";
import { UploadBody } from "./upload-body.ts";

/** Pages of versions of one name; whoever puts more than a million makes it unreadable until he stops. */
const pagesPerNameMax = 1000;
/** Versions of one name that are hashed before the first is taken as it is. */
const versionsHashedMax = 64;
/** How long the difference of two clocks is believed. */
const clockAgeMaxMs = 15 * 60 * 1000;
/** A put may take so long between the choice of its lock's end and the time that the store gives it. */
const putTimeMaxMs = 3_600_000;
/** Pages without a key that may follow each other. */
const emptyPagesMax = 1000;

/** What a locked place is built from. */
export interface LockedPlaceOptions {
  readonly service: LockService;
  /** What the keys of all objects start with: empty, or ends in `/`. */
  readonly prefix: string;
  readonly clock?: Clock;
  readonly random?: RandomSource;
}

/** See the file's head. Errors: those of the store port. */
export class LockedPlace {
  readonly location: string;
  readonly #service: LockService;
  readonly #prefix: string;
  readonly #clock: Clock;
  readonly #requests: Requests;
  readonly #memory = new LockMemory();
  #offset: { readonly ms: number; readonly readAtMs: number } | undefined;

  constructor({ service, prefix, clock = systemClock, random = systemRandom }: LockedPlaceOptions) {
    this.location = service.location;
    this.#service = service;
    this.#prefix = prefix;
    this.#clock = clock;
    this.#requests = new Requests({ clock, random });
  }

  /** Whether the bucket can lock objects at all. */
  async hasLocks(signal?: AbortSignal): Promise<boolean> {
    const call = this.#requests.begin(`look at the locks of "${this.location}"`, signal);
    return await this.#requests.send(call, (one) => this.#service.hasLocks(one));
  }

  /** Now, by the store's clock, which may be a second behind. */
  async nowMs(signal?: AbortSignal): Promise<number> {
    const atMs = this.#clock.monotonicMs();
    if (this.#offset === undefined || atMs - this.#offset.readAtMs > clockAgeMaxMs) {
      const call = this.#requests.begin(`read the clock of "${this.location}"`, signal);
      const timeMs = await this.#requests.send(call, (one) => this.#service.readClock(one));
      const readAtMs = this.#clock.monotonicMs();
      this.#offset = { ms: timeMs - readAtMs, readAtMs };
    }
    return Math.floor(this.#offset.ms + this.#clock.monotonicMs());
  }

  /**
   * Makes sure that the content is there, locked until `untilMs` at least; `exists` where it was
   * there. Calls that race may put it more than once, which costs space alone.
   */
  async put(
    name: string,
    parts: readonly Uint8Array[],
    untilMs: number,
    signal?: AbortSignal,
  ): Promise<"created" | "exists"> {
    const sizeBytes = measureParts(parts);
    const body = new UploadBody(parts);
    try {
      const digest = toHex(body.digest("sha256"));
      if (!name.endsWith(digest)) throw misnamed(name);
      const found = await this.find(name, signal);
      if (found !== undefined && (await this.#isSound(found, signal))) {
        await this.extend(found, untilMs, signal);
        return "exists";
      }
      const call = this.#requests.begin(`write object "${name}"`, signal);
      const content = { body, untilMs };
      const key = this.#keyOf(name);
      const versionId = await this.#requests.send(call, (one) =>
        this.#service.putLocked(key, content, one),
      );
      if (found !== undefined) this.#memory.forget(name);
      else {
        const object = { name, versionId, sizeBytes, putMs: await this.nowMs(signal) };
        this.#memory.note(object, untilMs);
      }
      return "created";
    } finally {
      body.close();
    }
  }

  /** The object of that name; `undefined` where no version holds anything. */
  async find(name: string, signal?: AbortSignal): Promise<LockedObject | undefined> {
    const known = this.#memory.find(name);
    if (known !== undefined) return known;
    const call = this.#requests.begin(`look up object "${name}"`, signal);
    const versions = (await this.#versionsOf(name, call)).filter(({ isMarker }) => !isMarker);
    const objects = versions.reverse().map((version) => toObject(name, version));
    const chosen = await this.#choose(objects, signal);
    if (chosen !== undefined) this.#memory.note(chosen);
    return chosen;
  }

  /** The bytes of an object, or a range of them. ObjectNotFound (never) where it is gone. */
  async read(object: LockedObject, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    const { name, versionId, sizeBytes } = object;
    if (range !== undefined && range.offsetBytes + range.lengthBytes > sizeBytes) {
      throw rangePastEnd(name, range, sizeBytes);
    }
    if (range?.lengthBytes === 0) return new Uint8Array(0);
    const call = this.#requests.begin(`read object "${name}"`, signal);
    const at = { key: this.#keyOf(name), versionId };
    const asked = range && {
      first: range.offsetBytes,
      last: range.offsetBytes + range.lengthBytes - 1,
    };
    return await this.#requests.send(call, async (attempt) => {
      try {
        const read = await this.#service.getVersion(at, asked, attempt);
        try {
          return await collect(name, read, range);
        } finally {
          read.close();
        }
      } catch (error) {
        if (!(error instanceof RequestFailure) || error.kind !== "missing") throw error;
        this.#memory.forget(name);
        throw objectNotFound(name);
      }
    });
  }

  /** Every name below `prefix` with its first version, ascending. No snapshot in time. */
  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<LockedObject> {
    let token: VersionToken | undefined;
    let last: { readonly object: LockedObject; readonly versions: number } | undefined;
    let emptyPages = 0;
    do {
      const call = this.#requests.begin(`list objects of "${prefix}"`, signal);
      const page = await this.#page(prefix, token, call);
      for (const version of page.versions) {
        if (version.isMarker) continue;
        const name = version.name.slice(this.#prefix.length);
        const isNext = last !== undefined && last.object.name !== name;
        if (isNext && last !== undefined) {
          if (!isAfter(name, last.object.name)) throw disordered(call);
          yield this.#learn(last);
        }
        // Versions of a key come newest first: the last one is the first that was put.
        const versions = isNext || last === undefined ? 1 : last.versions + 1;
        last = { object: toObject(name, version), versions };
      }
      signal?.throwIfAborted();
      emptyPages = page.versions.length === 0 ? emptyPages + 1 : 0;
      if (emptyPages > emptyPagesMax) throw disordered(call);
      token = page.next;
    } while (token !== undefined);
    if (last !== undefined) yield this.#learn(last);
  }

  /** Makes the next call look at the store. */
  forget(name: string): void {
    this.#memory.forget(name);
  }

  /** When the lock of an object ends; 0 where it is not locked or is gone. */
  async lockEnd(object: LockedObject, signal?: AbortSignal): Promise<number> {
    return this.#memory.lockEnd(object) ?? (await this.readLockEnd(object, signal));
  }

  /** The same as the store says now. */
  async readLockEnd(object: LockedObject, signal?: AbortSignal): Promise<number> {
    const { name, versionId } = object;
    const call = this.#requests.begin(`look up the lock of "${name}"`, signal);
    const at = { key: this.#keyOf(name), versionId };
    const endMs = await this.#requests.send(call, async (attempt) => {
      try {
        return await this.#service.lockEnd(at, attempt);
      } catch (error) {
        if (error instanceof RequestFailure && error.kind === "missing") return 0;
        throw error;
      }
    });
    if (endMs > 0) this.#memory.note(object, endMs);
    return endMs;
  }

  /** Whether the lock ends before `timeMs`; what was put of late is known to end later. */
  async endsBefore(
    object: LockedObject,
    timeMs: number,
    options: { readonly policy: LockPolicy; readonly signal?: AbortSignal | undefined },
  ): Promise<boolean> {
    if (lockEndOf(object.putMs - putTimeMaxMs, options.policy) >= timeMs) return false;
    return (await this.lockEnd(object, options.signal)) < timeMs;
  }

  /** Locks an object until `untilMs` at least. ObjectNotFound (never) where it is gone. */
  async extend(object: LockedObject, untilMs: number, signal?: AbortSignal): Promise<void> {
    if ((await this.lockEnd(object, signal)) >= untilMs) return;
    const { name, versionId } = object;
    const call = this.#requests.begin(`lock object "${name}"`, signal);
    const at = { key: this.#keyOf(name), versionId };
    try {
      await this.#requests.send(call, (one) => this.#service.extendLock(at, untilMs, one));
    } catch (error) {
      // Another host has given it a longer one in between, or removed it.
      this.#memory.forget(name);
      if (isKluisError(error, "StoreDenied") && (await this.lockEnd(object, signal)) >= untilMs)
        return;
      throw error;
    }
    this.#memory.note(object, untilMs);
  }

  /**
   * Removes an object with all its versions. ObjectLocked (after-change) while it is locked; versions
   * that others have locked stay.
   */
  async remove(name: string, signal?: AbortSignal): Promise<void> {
    const object = await this.find(name, signal);
    const call = this.#requests.begin(`remove object "${name}"`, signal);
    const key = this.#keyOf(name);
    if (object !== undefined) {
      const endMs = await this.lockEnd(object, signal);
      if (endMs > (await this.nowMs(signal))) throw locked(`remove object "${name}"`, endMs);
      const { versionId } = object;
      await this.#requests.send(call, (one) =>
        this.#service.removeVersion({ key, versionId }, one),
      );
      this.#memory.forget(name);
    }
    for (const { versionId } of await this.#versionsOf(name, call)) {
      try {
        await this.#requests.send(call, (one) =>
          this.#service.removeVersion({ key, versionId }, one),
        );
      } catch (error) {
        // Not ours to be stopped by: somebody put it here and locked it.
        if (!isKluisError(error, "ObjectLocked")) throw error;
      }
    }
  }

  /** For a probe: asks to remove that version, locked or not. ObjectLocked, StoreDenied (after-change). */
  async tryRemoval({ name, versionId }: LockedObject, signal?: AbortSignal): Promise<void> {
    const call = this.#requests.begin(`remove "${name}"`, signal);
    const at = { key: this.#keyOf(name), versionId };
    await this.#requests.send(call, (one) => this.#service.removeVersion(at, one));
  }

  /** For a probe: asks for another end of that lock, also an earlier one. StoreDenied (after-change). */
  async tryCut(
    { name, versionId }: LockedObject,
    untilMs: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const call = this.#requests.begin(`cut the lock of "${name}"`, signal);
    const at = { key: this.#keyOf(name), versionId };
    await this.#requests.send(call, (one) => this.#service.extendLock(at, untilMs, one));
  }

  /**
   * The first object whose content is what its name says. Of one alone nothing is read: whoever reads
   * it checks it.
   */
  async #choose(
    objects: readonly LockedObject[],
    signal: AbortSignal | undefined,
  ): Promise<LockedObject | undefined> {
    if (objects.length < 2) return objects[0];
    for (const object of objects.slice(0, versionsHashedMax)) {
      if (await this.#isSound(object, signal)) return object;
    }
    return objects[0];
  }

  /** Whether an object's content is what its name says. */
  async #isSound(object: LockedObject, signal: AbortSignal | undefined): Promise<boolean> {
    try {
      const bytes = await this.read(object, undefined, signal);
      return object.name.endsWith(createHash("sha256").update(bytes).digest("hex"));
    } catch (error) {
      if (isKluisError(error, "ObjectNotFound") || isKluisError(error, "ObjectCorrupt"))
        return false;
      throw error;
    }
  }

  /** Of several versions, the one that is known to be sound. */
  #learn(listed: { readonly object: LockedObject; readonly versions: number }): LockedObject {
    const { object, versions } = listed;
    if (versions > 1) return this.#memory.find(object.name) ?? object;
    this.#memory.note(object);
    return object;
  }

  /** All versions and markers of a name, newest first. */
  async #versionsOf(name: string, call: Call): Promise<BlobVersion[]> {
    const key = this.#keyOf(name);
    const found: BlobVersion[] = [];
    let token: VersionToken | undefined;
    for (let pages = 0; pages < pagesPerNameMax; pages++) {
      const page = await this.#page(name, token, call);
      found.push(...page.versions.filter((version) => version.name === key));
      token = page.next;
      // Longer keys that start alike come after this one.
      if (token === undefined || token.key !== key) return found;
    }
    throw new KluisError("StoreUnavailable", `Cannot ${call.doing}: it has too many versions`);
  }

  async #page(below: string, token: VersionToken | undefined, call: Call) {
    const prefix = this.#keyOf(below);
    const page = await this.#requests.send(call, (one) =>
      this.#service.listVersions(prefix, token, one),
    );
    if (page.versions.some(({ name }) => !name.startsWith(prefix))) throw disordered(call);
    return page;
  }

  #keyOf(name: string): string {
    return `${this.#prefix}${name}`;
  }
}

/** The error for what may not be removed yet. `doing` completes "Cannot …". */
export function locked(doing: string, untilMs: number): KluisError {
  const until = new Date(untilMs).toISOString();
  return new KluisError("ObjectLocked", `Cannot ${doing}: it is locked until ${until}`, {
    details: { lockedUntil: until },
  });
}

function toObject(name: string, version: BlobVersion): LockedObject {
  const { versionId, sizeBytes, putMs } = version;
  return { name, versionId, sizeBytes, putMs };
}

function misnamed(name: string): KluisError {
  return new KluisError("ObjectCorrupt", `Cannot write object "${name}": its hash is another`, {
    details: { object: name },
  });
}

function disordered(call: Call): KluisError {
  return new KluisError("StoreUnavailable", `Cannot ${call.doing}: the listing has no order`);
}
