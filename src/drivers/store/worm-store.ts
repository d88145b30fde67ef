/**
 * A store of two places: one that locks what is put, and one for what must be rewritten; internal to
 * this folder. See docs/adr/0009-immutability.md.
 *
 * Objects named by their hash lie in the locked place alone. What is committed by the put-if-absent of
 * a name (manifests, key records, `vault.json`) is put there in the control place, and then copied
 * into the locked one below its hash; where there is such a copy it counts, whatever the control place
 * says or lacks. All the rest lies in the control place: leases, fences, marks, inventory, findings.
 */
import { createHash } from "node:crypto";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { parseContainerHeader } from "#formats/container.ts";
import { lockEndOf, type LockPolicy } from "#formats/lock-policy.ts";
import { assertObjectName, assertObjectPrefix } from "#formats/object-name.ts";
import {
  deletedPrefix,
  parseStoreName,
  pointPrefix,
  type StoreName,
  vaultHeaderName,
} from "#formats/store-names.ts";
import type {
  ByteRange,
  ObjectInfo,
  ObjectLocks,
  ObjectStore,
  PutOutcome,
} from "#ports/object-store.ts";
import type { LockedObject } from "./cloud/lock-memory.ts";
import { locked, type LockedPlace } from "./cloud/locked-place.ts";
import { assertRange, objectNotFound } from "./store-arguments.ts";
import { probeLocks } from "./worm/probe-locks.ts";
import { policyPrefix } from "./worm/policy-object.ts";

/** What a WORM store is built from. */
export interface WormStoreOptions {
  readonly location: string;
  readonly place: LockedPlace;
  /** `undefined` where it is gone: then the store can be read only. */
  readonly control: ObjectStore | undefined;
  readonly policy: LockPolicy;
  readonly random: RandomSource;
}

/** Where an object of a name lies. */
type Home = "locked" | "claimed" | "control";

/** See the file's head. */
export class WormStore implements ObjectStore {
  readonly location: string;
  readonly locks: ObjectLocks;
  readonly #place: LockedPlace;
  readonly #control: ObjectStore | undefined;
  readonly #policy: LockPolicy;
  readonly #random: RandomSource;

  constructor({ location, place, control, policy, random }: WormStoreOptions) {
    this.location = location;
    this.#place = place;
    this.#control = control;
    this.#policy = policy;
    this.#random = random;
    this.locks = {
      policy,
      nowMs: (signal) => place.nowMs(signal),
      endsBefore: async (name, timeMs, signal) => await this.#endsBefore(name, timeMs, signal),
      unlocked: (prefix, signal) => this.#unlocked(prefix, signal),
      extend: async (name, untilMs, signal) => {
        await this.#extend(name, untilMs, signal);
      },
    };
  }

  async put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    assertObjectName(name);
    const home = homeOf(name);
    if (home === "control") {
      if (name.startsWith(deletedPrefix)) await this.#assertDeletable(name, signal);
      return await this.#writable.put(name, parts, signal);
    }
    if (home === "claimed") return await this.#claim(name, parts, signal);
    return await this.#place.put(name, parts, await this.#newEnd(signal), signal);
  }

  async get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    assertObjectName(name);
    if (range !== undefined) assertRange(range);
    signal?.throwIfAborted();
    const object = await this.#find(name, signal);
    if (object !== undefined) return await this.#read(name, object, { range, signal });
    if (homeOf(name) === "locked" || (await this.#isVoidMark(name, signal))) {
      throw objectNotFound(name);
    }
    const bytes = await this.#orAbsent(async (control) => await control.get(name, range, signal));
    if (bytes === undefined) throw objectNotFound(name);
    return bytes;
  }

  async stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    assertObjectName(name);
    signal?.throwIfAborted();
    // What another host has removed is not to be remembered here.
    this.#place.forget(name);
    const object = await this.#find(name, signal);
    if (object !== undefined) return { name, sizeBytes: object.sizeBytes };
    if (homeOf(name) === "locked" || (await this.#isVoidMark(name, signal))) return undefined;
    return await this.#orAbsent(async (control) => await control.stat(name, signal));
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    assertObjectPrefix(prefix);
    signal?.throwIfAborted();
    const locked = new Set<string>();
    for await (const info of this.#listLocked(prefix, signal)) {
      if (homeOf(info.name) === "claimed") locked.add(info.name);
      yield info;
    }
    if (this.#control === undefined) return;
    try {
      for await (const info of this.#control.list(prefix, signal)) {
        if (homeOf(info.name) === "locked" || locked.has(info.name)) continue;
        if (!(await this.#isVoidMark(info.name, signal))) yield info;
      }
    } catch (error) {
      if (!isKluisError(error, "StoreNotFound")) throw error;
    }
  }

  async remove(name: string, signal?: AbortSignal): Promise<void> {
    assertObjectName(name);
    signal?.throwIfAborted();
    const control = this.#writable;
    const home = homeOf(name);
    if (home === "locked") {
      await this.#place.remove(name, signal);
      return;
    }
    // The copies first: what the control place holds without them is a point that was never locked.
    if (home === "claimed") {
      for (const copy of await this.#copiesOf(name, signal)) {
        await this.#place.remove(copy.name, signal);
      }
    }
    await control.remove(name, signal);
  }

  /** Proves both places; the locked one keeps a few bytes that no listing shows. */
  async probe(signal?: AbortSignal): Promise<void> {
    await this.#writable.probe(signal);
    await probeLocks(this.#place, this.#random, signal);
  }

  /** What the locked place holds; each claim once, with the copy that came first. */
  async *#listLocked(prefix: string, signal: AbortSignal | undefined): AsyncGenerator<ObjectInfo> {
    let first: { readonly name: string; readonly copy: LockedObject } | undefined;
    for await (const copy of this.#place.list(prefix, signal)) {
      const { name, sizeBytes } = copy;
      const claim = claimOf(name);
      if (homeOf(name) === "locked") yield { name, sizeBytes };
      if (claim === undefined) continue;
      if (first?.name === claim) {
        first = { name: claim, copy: earlier(first.copy, copy) };
        continue;
      }
      if (first !== undefined) yield { name: first.name, sizeBytes: first.copy.sizeBytes };
      first = { name: claim, copy };
    }
    if (first !== undefined) yield { name: first.name, sizeBytes: first.copy.sizeBytes };
  }

  get #writable(): ObjectStore {
    if (this.#control !== undefined) return this.#control;
    throw new KluisError(
      "StoreDenied",
      `Cannot write to "${this.location}": it was opened without its control place`,
    );
  }

  /**
   * Commits by put-if-absent in the control place, then locks a copy. Done only when both are; a claim
   * whose copy is missing after a crash is completed by the next backup or collection.
   */
  async #claim(
    name: string,
    parts: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<PutOutcome> {
    const control = this.#writable;
    if ((await this.#find(name, signal)) !== undefined) return "exists";
    const outcome = await control.put(name, parts, signal);
    const content = concatBytes(parts);
    if (!isLasting(name, content)) return outcome;
    const isOurs =
      outcome === "created" || bytesEqual(await control.get(name, undefined, signal), content);
    if (isOurs)
      await this.#lockCopy(name, content, { untilMs: await this.#newEnd(signal), signal });
    return outcome;
  }

  async #lockCopy(name: string, content: Uint8Array, to: LockTo): Promise<void> {
    const sha256 = createHash("sha256").update(content).digest("hex");
    await this.#place.put(`${name}/${sha256}`, [content], to.untilMs, to.signal);
  }

  async #newEnd(signal: AbortSignal | undefined): Promise<number> {
    return lockEndOf(await this.#place.nowMs(signal), this.#policy);
  }

  /** What the locked place has under a name; of several copies the one that came first. */
  async #find(name: string, signal: AbortSignal | undefined): Promise<LockedObject | undefined> {
    const home = homeOf(name);
    if (home === "control") return undefined;
    if (home === "locked") return await this.#place.find(name, signal);
    const [first, ...others] = await this.#copiesOf(name, signal);
    return first === undefined ? undefined : others.reduce(earlier, first);
  }

  async #copiesOf(name: string, signal: AbortSignal | undefined): Promise<LockedObject[]> {
    const copies: LockedObject[] = [];
    for await (const { name: copy } of this.#place.list(`${name}/`, signal)) {
      if (claimOf(copy) !== name) continue;
      const object = await this.#place.find(copy, signal);
      if (object !== undefined) copies.push(object);
    }
    return copies;
  }

  async *#unlocked(prefix: string, signal: AbortSignal | undefined): AsyncGenerator<string> {
    const locked = new Set<string>();
    for await (const { name } of this.#listLocked(prefix, signal)) locked.add(name);
    for await (const { name } of this.#writable.list(prefix, signal)) {
      if (homeOf(name) === "claimed" && !locked.has(name)) yield name;
    }
  }

  /** Reads; where that version has just gone, what is there now. */
  async #read(
    name: string,
    object: LockedObject,
    {
      range,
      signal,
    }: { readonly range: ByteRange | undefined; readonly signal: AbortSignal | undefined },
  ): Promise<Uint8Array> {
    try {
      return await this.#place.read(object, range, signal);
    } catch (error) {
      if (!isKluisError(error, "ObjectNotFound")) throw error;
    }
    const now = await this.#find(name, signal);
    if (now === undefined) throw objectNotFound(name);
    return await this.#place.read(now, range, signal);
  }

  async #endsBefore(
    name: string,
    timeMs: number,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    const object = await this.#find(name, signal);
    if (object === undefined) return true;
    return await this.#place.endsBefore(object, timeMs, { policy: this.#policy, signal });
  }

  async #extend(name: string, untilMs: number, signal: AbortSignal | undefined): Promise<void> {
    const object = await this.#find(name, signal);
    if (object !== undefined) await this.#place.extend(object, untilMs, signal);
    else if (homeOf(name) !== "claimed") throw objectNotFound(name);
    else {
      const content = await this.#writable.get(name, undefined, signal);
      if (isLasting(name, content)) await this.#lockCopy(name, content, { untilMs, signal });
    }
    // The policy lives as long as the header does.
    if (name !== vaultHeaderName) return;
    for await (const policy of this.#place.list(policyPrefix, signal)) {
      await this.#place.extend(policy, untilMs, signal);
    }
  }

  /** Throws ObjectLocked where a deletion mark would hide a manifest that is locked. */
  async #assertDeletable(mark: string, signal: AbortSignal | undefined): Promise<void> {
    const manifest = manifestOf(mark);
    const object = await this.#find(manifest, signal);
    const endMs = object === undefined ? 0 : await this.#place.lockEnd(object, signal);
    if (endMs <= (await this.#place.nowMs(signal))) return;
    const point = manifest.slice(manifest.lastIndexOf("/") + 1);
    throw locked(`delete recovery point "${point}"`, endMs);
  }

  /** Whether an object is a deletion mark that counts for nothing, since its manifest is locked. */
  async #isVoidMark(name: string, signal: AbortSignal | undefined): Promise<boolean> {
    if (!name.startsWith(deletedPrefix)) return false;
    const nowMs = await this.#place.nowMs(signal);
    return !(await this.#endsBefore(manifestOf(name), nowMs, signal));
  }

  /** What the control place answers; `undefined` where it is gone. */
  async #orAbsent<T>(ask: (control: ObjectStore) => Promise<T>): Promise<T | undefined> {
    if (this.#control === undefined) return undefined;
    try {
      return await ask(this.#control);
    } catch (error) {
      if (isKluisError(error, "StoreNotFound")) return undefined;
      throw error;
    }
  }
}

interface LockTo {
  readonly untilMs: number;
  readonly signal: AbortSignal | undefined;
}

const homes: Partial<Readonly<Record<StoreName["kind"], Home>>> = {
  slot: "locked",
  pack: "locked",
  "map-pack": "locked",
  "index-segment": "locked",
  manifest: "claimed",
  "key-record": "claimed",
  "vault-header": "claimed",
};

/** Where objects of that name lie. What no vault names is no content, so the control place takes it. */
function homeOf(name: string): Home {
  const kind = parseStoreName(name)?.kind;
  return (kind === undefined ? undefined : homes[kind]) ?? "control";
}

const copyPattern = /^(.+)\/[0-9a-f]{64}$/;

/** The name that an object of the locked place is a copy of. */
function claimOf(copy: string): string | undefined {
  const name = copyPattern.exec(copy)?.[1];
  return name !== undefined && homeOf(name) === "claimed" ? name : undefined;
}

/** Of two copies the one that the store took first: nobody can put one before it. */
function earlier(a: LockedObject, b: LockedObject): LockedObject {
  return b.putMs < a.putMs ? b : a;
}

function manifestOf(mark: string): string {
  return `${pointPrefix}${mark.slice(deletedPrefix.length)}`;
}

const manifestTypeByte = 4;

/** Whether a claim is to be locked: what fences a session at the name of its manifest never is. */
function isLasting(name: string, content: Uint8Array): boolean {
  if (!name.startsWith(pointPrefix)) return true;
  try {
    return parseContainerHeader(content, name).typeByte === manifestTypeByte;
  } catch (error) {
    if (isKluisError(error, "ObjectCorrupt") || isKluisError(error, "StoreFormatNewer"))
      return false;
    throw error;
  }
}
