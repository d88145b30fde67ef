/** The object that holds the policy of a WORM store; internal to this folder and the one above. */
import { createHash } from "node:crypto";

import { KluisError } from "#base/kluis-error.ts";
import {
  encodeLockPolicy,
  lockEndOf,
  type LockPolicy,
  parseLockPolicy,
} from "#formats/lock-policy.ts";
import type { LockedObject } from "../cloud/lock-memory.ts";
import type { LockedPlace } from "../cloud/locked-place.ts";

/** Where policies lie in the locked place; the first that was put is the store's. */
export const policyPrefix = "immutability/";

/**
 * The policy of a locked place; `undefined` where it has none. ObjectCorrupt (never), StoreFormatNewer
 * (after-change).
 */
export async function readPolicy(
  place: LockedPlace,
  signal?: AbortSignal,
): Promise<LockPolicy | undefined> {
  let first: LockedObject | undefined;
  for await (const object of place.list(policyPrefix, signal)) {
    if (first === undefined || object.putMs < first.putMs) first = object;
  }
  if (first === undefined) return undefined;
  const found = await place.find(first.name, signal);
  return found && parseLockPolicy(await place.read(found, undefined, signal));
}

/**
 * Gives a locked place its policy, which stays for ever. ArgumentInvalid (after-change) where it has
 * another one already.
 */
export async function putPolicy(
  place: LockedPlace,
  policy: LockPolicy,
  signal?: AbortSignal,
): Promise<void> {
  const bytes = encodeLockPolicy(policy);
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const untilMs = lockEndOf(await place.nowMs(signal), policy);
  const found = await readPolicy(place, signal);
  if (found === undefined) await place.put(`${policyPrefix}${sha256}`, [bytes], untilMs, signal);
  const now = found ?? (await readPolicy(place, signal));
  if (now?.periodMs === policy.periodMs && now.generationMs === policy.generationMs) return;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot create a store in "${place.location}": its immutability was set to ` +
      `${(now?.periodMs ?? 0) / 86_400_000} days before`,
  );
}
