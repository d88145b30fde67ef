/** A store in two buckets of S3, one of which locks its objects. See docs/adr/0009-immutability.md. */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import type { LockPolicy } from "#formats/lock-policy.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { LockedPlace } from "./cloud/locked-place.ts";
import { S3LockService } from "./s3/s3-lock-service.ts";
import { createS3Client, openS3Store, type S3StoreOptions } from "./s3-store.ts";
import type { S3Location } from "./store-location.ts";
import { putPolicy, readPolicy } from "./worm/policy-object.ts";
import { WormStore } from "./worm-store.ts";

/** How a WORM store is opened. */
export interface WormOpenOptions extends S3StoreOptions {
  /** With `create`: how long objects are locked. It cannot be changed later. */
  readonly policy?: LockPolicy | undefined;
}

/**
 * Opens the WORM store whose locked place is `location`; with `create` the policy is put there first.
 *
 * Errors: StoreNotFound (after-change) where there is no policy, StoreUnsuitable (after-change) where
 * the bucket has no object lock; with `create` StoreForeign, StoreNotEmpty, ArgumentInvalid
 * (after-change); those of the store port.
 */
export async function openWormStore(
  location: S3Location,
  options: WormOpenOptions = {},
): Promise<ObjectStore> {
  const { bucket, prefix, text, control } = location;
  const { signal, create } = options;
  assert(control !== undefined, "a WORM store has a control place, or none any more");
  const service = new S3LockService(createS3Client(location, options), { location: text, bucket });
  const place = new LockedPlace({ service, prefix, ...options });
  const beside = control === "none" ? undefined : await openS3Store(control, options);
  if (create === true) {
    assert(options.policy !== undefined, "a WORM store is created with a policy");
    if (!(await place.hasLocks(signal))) {
      throw new KluisError(
        "StoreUnsuitable",
        `Cannot create an immutable vault in "${text}": bucket "${bucket}" has no object lock`,
      );
    }
    await assertNoForeignNames(place, signal);
    await putPolicy(place, options.policy, signal);
  }
  const policy = await readPolicy(place, signal);
  if (policy === undefined) {
    throw new KluisError(
      "StoreNotFound",
      `Cannot open an immutable vault in "${text}": there is none`,
    );
  }
  const random = options.random ?? systemRandom;
  return new WormStore({ location: text, place, control: beside, policy, random });
}

/** Throws StoreForeign (after-change) where the first name is none that a WORM store puts. */
async function assertNoForeignNames(place: LockedPlace, signal?: AbortSignal): Promise<void> {
  for await (const { name } of place.list("", signal)) {
    const isOurs = /^(tmp|immutability)\//.test(name) || parseStoreName(name) !== undefined;
    if (isOurs || parseStoreName(name.replace(/\/[0-9a-f]{64}$/, "")) !== undefined) return;
    throw new KluisError(
      "StoreForeign",
      `Cannot create a store in "${place.location}": it holds ${JSON.stringify(name.slice(0, 200))}, ` +
        "which is not Kluis's",
    );
  }
}
