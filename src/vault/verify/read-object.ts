/** Reads an object and says whether it is what its hash says, proved by two reads where it is not. */
import { createHash } from "node:crypto";

import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type Verdict, verdictOf } from "#vault/verify/damage.ts";

/** What reading an object has shown. */
export type ReadObject = { readonly bytesRead: number } & (
  | { readonly kind: "read"; readonly verdict: "sound"; readonly bytes: Uint8Array }
  | {
      readonly kind: "read";
      readonly verdict: Exclude<Verdict, "sound">;
      readonly reason: string;
      readonly bytes: Uint8Array;
    }
  | {
      readonly kind: "missing" | "unread";
      readonly verdict: Exclude<Verdict, "sound">;
      readonly reason: string;
    }
);

/**
 * Reads an object and compares its SHA-256 with `sha256` (32 bytes). What differs is read once more:
 * two wrong reads prove damage, one may be the way's fault and is unknown. Errors of the store are in
 * the result; only an abort is thrown, and what is no operating error.
 */
export async function readChecked(
  from: { readonly store: ObjectStore; readonly signal: AbortSignal | undefined },
  name: string,
  sha256: Uint8Array,
): Promise<ReadObject> {
  const first = await readOnce(from, name);
  if ("error" in first) return await toUnread(from, name, first.error);
  if (bytesEqual(hashOf(first.bytes), sha256)) {
    return {
      kind: "read",
      verdict: "sound",
      bytes: first.bytes,
      bytesRead: first.bytes.byteLength,
    };
  }
  const second = await readOnce(from, name);
  if ("error" in second) return await toUnread(from, name, second.error);
  const { bytes } = second;
  const bytesRead = first.bytes.byteLength + bytes.byteLength;
  const actual = hashOf(bytes);
  if (bytesEqual(actual, sha256)) {
    const reason = "it was read once with other content, and once as it was put";
    return { kind: "read", verdict: "unknown", reason, bytes, bytesRead };
  }
  const reason = `its content hashes to ${toHex(actual)}, not to its name`;
  return { kind: "read", verdict: "damaged", reason, bytes, bytesRead };
}

type Attempt = { readonly bytes: Uint8Array } | { readonly error: KluisError };

async function readOnce(
  { store, signal }: Parameters<typeof readChecked>[0],
  name: string,
): Promise<Attempt> {
  try {
    return { bytes: await store.get(name, undefined, signal) };
  } catch (error) {
    signal?.throwIfAborted();
    if (!isKluisError(error)) throw error;
    return { error };
  }
}

async function toUnread(
  { store, signal }: Parameters<typeof readChecked>[0],
  name: string,
  error: KluisError,
): Promise<ReadObject> {
  const reason = error.message;
  const unread = { kind: "unread", verdict: "unknown", reason, bytesRead: 0 } as const;
  if (error.code !== "ObjectNotFound") return { ...unread, verdict: verdictOf(error) };
  try {
    if ((await store.stat(name, signal)) !== undefined) return unread;
  } catch (failure) {
    signal?.throwIfAborted();
    if (!isKluisError(failure)) throw failure;
    return unread;
  }
  return { ...unread, kind: "missing", verdict: "damaged" };
}

function hashOf(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}
