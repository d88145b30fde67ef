/** Tries out whether a place locks what it was told to lock; internal to this folder and the one above. */
import { createHash } from "node:crypto";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import type { LockedPlace } from "../cloud/locked-place.ts";

/** How long the lock of a probe lasts. */
const probeLockMs = 10_000;
const contentBytes = 32;

/**
 * Locks some bytes for seconds, then for longer, and tries to remove that version and to cut its lock short; both must
 * be refused. Leaves these bytes, which no listing of the store shows. StoreUnsuitable (after-change).
 */
export async function probeLocks(
  place: LockedPlace,
  random: RandomSource,
  signal?: AbortSignal,
): Promise<void> {
  if (!(await place.hasLocks(signal))) throw unsuitable(place, "its bucket has no object lock");
  const content = random.bytes(contentBytes);
  const name = `tmp/probe/${createHash("sha256").update(content).digest("hex")}`;
  const untilMs = (await place.nowMs(signal)) + probeLockMs;
  await place.put(name, [content], untilMs, signal);
  const object = await place.find(name, signal);
  if (object === undefined) throw unsuitable(place, "what was put is not there");
  await place.extend(object, untilMs + probeLockMs, signal);
  const attempts = [
    () => place.tryRemoval(object, signal),
    () => place.tryCut(object, untilMs - probeLockMs / 2, signal),
  ];
  for (const attempt of attempts) {
    if (!(await isRefused(attempt))) throw unsuitable(place, "it lets go what is locked");
  }
  if ((await place.readLockEnd(object, signal)) < untilMs + probeLockMs)
    throw unsuitable(place, "it does not keep the end of a lock");
}

async function isRefused(attempt: () => Promise<void>): Promise<boolean> {
  try {
    await attempt();
    return false;
  } catch (error) {
    if (isKluisError(error, "ObjectLocked") || isKluisError(error, "StoreDenied")) return true;
    throw error;
  }
}

function unsuitable(place: LockedPlace, reason: string): KluisError {
  return new KluisError(
    "StoreUnsuitable",
    `Cannot keep an immutable vault in "${place.location}": ${reason}`,
  );
}
