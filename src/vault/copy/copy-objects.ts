/** Brings objects from one store to another, each checked on the way. */
import { createHash } from "node:crypto";

import { allEnded } from "#base/all-ended.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { keyRecordDamage } from "#formats/key-record.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { objectBytesMax } from "#vault/limits.ts";

/** Objects in memory at once, of at most 64 MiB each. */
export const copiesInFlight = 3;

/** What is to be done with an object whose bytes were looked at. */
export type Verdict =
  /** It goes over. */
  | { readonly kind: "put" }
  /** It does not go over in this step. */
  | { readonly kind: "later" }
  /** It must not go over: it is damaged, or what it needs is not in order. */
  | { readonly kind: "damaged" | "held-back"; readonly reason: string };

/** What became of an object: it is there now, its source is gone, or what the verdict says. */
export type CopyOutcome =
  | { readonly kind: "copied" }
  | { readonly kind: "gone" }
  | Exclude<Verdict, { readonly kind: "put" }>;

/** What a copy needs. */
export interface CopyDeps {
  readonly from: ObjectStore;
  readonly to: ObjectStore;
  readonly signal?: AbortSignal | undefined;
}

/** Why the bytes of an object cannot be had. */
export type Unsound =
  | { readonly kind: "gone" }
  | { readonly kind: "damaged"; readonly reason: string };

/** Looks at the bytes of an object before they are put. */
export type Inspect = (name: string, bytes: Uint8Array) => Verdict | Promise<Verdict>;

/**
 * Copies objects, a few at a time, in the order given; each is durable when `onOutcome` hears of it.
 * On the first error no further copy starts; it is thrown when those under way have ended.
 */
export async function copyObjects(
  deps: CopyDeps,
  objects: readonly ObjectInfo[],
  handlers: {
    readonly inspect?: Inspect | undefined;
    readonly onOutcome: (object: ObjectInfo, outcome: CopyOutcome) => void;
  },
): Promise<void> {
  await forEachObject(objects, deps.signal, async (object) => {
    handlers.onOutcome(object, await copyObject(deps, object, handlers.inspect));
  });
}

/** Does `work` for every object, a few at a time; how it ends on an error is as {@link copyObjects} says. */
export async function forEachObject(
  objects: readonly ObjectInfo[],
  signal: AbortSignal | undefined,
  work: (object: ObjectInfo) => Promise<void>,
): Promise<void> {
  const queue = objects.values();
  let hasFailed = false;
  const takeTurns = async (): Promise<void> => {
    for (const object of queue) {
      if (hasFailed) return;
      try {
        signal?.throwIfAborted();
        await work(object);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  await allEnded(Array.from({ length: copiesInFlight }, takeTurns));
}

/** Copies one object; durable on return. Errors: those of the stores. */
export async function copyObject(
  deps: CopyDeps,
  { name }: Pick<ObjectInfo, "name">,
  inspect?: Inspect,
): Promise<CopyOutcome> {
  const { from, to, signal } = deps;
  const read = await readSound(from, name, signal);
  if (!("bytes" in read)) return read;
  const verdict = (await inspect?.(name, read.bytes)) ?? { kind: "put" };
  if (verdict.kind !== "put") return verdict;
  const outcome = await to.put(name, [read.bytes], signal);
  if (outcome === "created" || hashOfName(name) !== undefined) return { kind: "copied" };
  const there = await to.get(name, undefined, signal);
  if (bytesEqual(there, read.bytes)) return { kind: "copied" };
  return { kind: "damaged", reason: "the secondary holds other bytes under this name" };
}

/**
 * The bytes of an object that is what its name says, or why there are none: gone, or damaged, which
 * two reads have shown. A name that is no hash proves nothing here. Errors: those of the store.
 */
export async function readSound(
  store: ObjectStore,
  name: string,
  signal?: AbortSignal,
): Promise<{ readonly bytes: Uint8Array } | Unsound> {
  let reason = "";
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      const info = await store.stat(name, signal);
      if (info === undefined) return { kind: "gone" };
      if (info.sizeBytes > objectBytesMax) {
        const bytes = info.sizeBytes;
        return {
          kind: "damaged",
          reason: `it has ${bytes} bytes, more than any object of a vault`,
        };
      }
      const range = { offsetBytes: 0, lengthBytes: info.sizeBytes };
      const bytes = await store.get(name, range, signal);
      const damage = damageOf(name, bytes);
      if (damage === undefined) return { bytes };
      reason = damage;
    } catch (error) {
      if (isKluisError(error, "ObjectNotFound")) return { kind: "gone" };
      if (!isKluisError(error, "ObjectCorrupt")) throw error;
      reason = error.message;
    }
  }
  return { kind: "damaged", reason };
}

/** What is wrong with an object, as far as it shows without a key. */
function damageOf(name: string, bytes: Uint8Array): string | undefined {
  const parsed = parseStoreName(name);
  if (parsed?.kind === "key-record") return keyRecordDamage(bytes, parsed);
  const expected = hashOfName(name);
  const actual = createHash("sha256").update(bytes).digest();
  if (expected === undefined || bytesEqual(actual, expected)) return undefined;
  return `its content hashes to ${toHex(actual)}, not to its name`;
}

function hashOfName(name: string): Uint8Array | undefined {
  const parsed = parseStoreName(name);
  return parsed !== undefined && "sha256" in parsed ? parsed.sha256 : undefined;
}
