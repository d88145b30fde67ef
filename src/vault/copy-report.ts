/** What a copy from store to store is told, and what it tells. */
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import type { PointName } from "#vault/vault.ts";

/** What is copied, from where to where. */
export interface CopyRunOptions {
  readonly primary: ObjectStore;
  readonly secondary: ObjectStore;
  readonly keys: VaultKeys;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Where this host keeps index files of this vault; without one they are read anew. */
  readonly cacheDirectory?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes that were copied, of all that will be. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/** A recovery point that was not copied, because part of what it needs is not in order. */
export interface HeldBackPoint extends PointName {
  readonly reason: string;
}

/** An object that was not copied, because it is damaged. */
export interface DamagedObject {
  readonly name: string;
  readonly reason: string;
}

/** How far one store is behind another. */
export interface ReplicationLag {
  /** Recovery points that the secondary lacks. */
  readonly points: number;
  readonly objects: number;
  readonly bytes: number;
  /** Age of the oldest recovery point that the secondary lacks, by its id; 0 where it lacks none. */
  readonly ageMs: number;
  /** When the primary was listed. */
  readonly measuredAtMs: number;
}

/** What a copy did, and what it left. */
export interface CopyReport {
  readonly objects: number;
  readonly bytes: number;
  readonly points: number;
  readonly heldBack: readonly HeldBackPoint[];
  readonly damaged: readonly DamagedObject[];
  /** What the secondary still lacks of what the primary held when it was listed last. */
  readonly lag: ReplicationLag;
}

/** What was taken out of a secondary. */
export interface SecondaryPruning {
  /** Recovery points that the primary has deleted. */
  readonly pointsDeleted: number;
  /** Recovery points that the primary has not, and of which nothing says that they were deleted: they stay. */
  readonly pointsUnexplained: number;
  /** Of packs that were removed. */
  readonly freedBytes: number;
}

/** Which vault is healed, and from where. */
export interface HealOptions {
  readonly store: ObjectStore;
  /** Another store of the same vault. */
  readonly copy: ObjectStore;
  readonly keys: VaultKeys;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Where this host keeps index files of this vault; without one they are read anew. */
  readonly cacheDirectory?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of objects that were read, of all that will be. */
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/** An object that is as it must be again. */
export interface HealedObject {
  readonly name: string;
  readonly was: "damaged" | "missing";
}

/** What a healing found and did. */
export interface HealReport {
  /** Objects that were read. */
  readonly objectsChecked: number;
  readonly bytesRead: number;
  readonly healed: readonly HealedObject[];
  /** Objects, manifests among them, that are still not as they must be. */
  readonly unhealed: readonly DamagedObject[];
}
