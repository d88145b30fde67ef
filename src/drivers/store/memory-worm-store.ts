/** A WORM store in the memory of this process, for tests: years of locks pass in seconds. */
import type { Clock } from "#base/clock.ts";
import { systemRandom } from "#base/random.ts";
import type { LockPolicy } from "#formats/lock-policy.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { LockedPlace } from "./cloud/locked-place.ts";
import { MemoryLockService, type MemoryVersions } from "./worm/memory-lock-service.ts";
import { WormStore } from "./worm-store.ts";

/** What such a store is made of. */
export interface MemoryWormOptions {
  readonly policy: LockPolicy;
  /** Its `nowMs` is the clock of the locked place; `monotonicMs` must move with it. */
  readonly clock: Clock;
  /** The locked place: every version of every key. Changed by the store. */
  readonly versions: MemoryVersions;
  /** `undefined` where it is gone. */
  readonly control: ObjectStore | undefined;
  /** Called before and after each change of the locked place takes effect. */
  readonly onChange?: (moment: "before" | "after") => void;
}

/** Builds a WORM store; it keeps the port's promises except durability. */
export function createMemoryWormStore(options: MemoryWormOptions): ObjectStore {
  const { policy, clock, versions, control, onChange } = options;
  const service = new MemoryLockService({
    versions,
    nowMs: () => clock.nowMs(),
    ...(onChange === undefined ? {} : { onChange }),
  });
  const place = new LockedPlace({ service, prefix: "", clock });
  return new WormStore({
    location: service.location,
    place,
    control,
    policy,
    random: systemRandom,
  });
}
