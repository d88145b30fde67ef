/** How long the objects of a WORM vault stay locked; docs/adr/0009-immutability.md. */
import { KluisError } from "#base/kluis-error.ts";
import { encodeJsonLine, JsonMembers } from "#formats/strict-json.ts";
import { bytesEqual } from "#base/bytes.ts";

/** What is fixed when a WORM vault is created. Milliseconds. */
export interface LockPolicy {
  /** Every recovery point stays undeletable for at least so long after its commit. */
  readonly periodMs: number;
  /** Objects that are put in one such span share the end of their lock, so that few need longer ones. */
  readonly generationMs: number;
}

/** Most bytes of an encoded policy. */
export const lockPolicyBytesMax = 4096;

/** A lock that is set at `nowMs` (of the store's clock) ends here: whole generations since 1970. */
export function lockEndOf(nowMs: number, { periodMs, generationMs }: LockPolicy): number {
  return Math.ceil((nowMs + periodMs) / generationMs) * generationMs;
}

const format = "kluis-immutability";
const policyVersion = 1;
/** A hundred years: the most that S3 takes. */
const spanMsMax = 100 * 365 * 24 * 3600 * 1000;

/** The one encoding of a policy. */
export function encodeLockPolicy({ periodMs, generationMs }: LockPolicy): Uint8Array {
  return encodeJsonLine({ format, version: policyVersion, periodMs, generationMs });
}

/** Parses a policy. ObjectCorrupt (never); StoreFormatNewer (after-change) for a newer version's. */
export function parseLockPolicy(bytes: Uint8Array): LockPolicy {
  const members = JsonMembers.parse(bytes, { bytesMax: lockPolicyBytesMax }, "immutability policy");
  if (members.text("format") !== format) throw members.corrupt("it is not one");
  const version = members.integer("version", 1, Number.MAX_SAFE_INTEGER);
  if (version > policyVersion) {
    throw new KluisError(
      "StoreFormatNewer",
      `Cannot use this vault: its immutability policy is version ${version}, this program knows ${policyVersion}`,
    );
  }
  const policy: LockPolicy = {
    periodMs: members.integer("periodMs", 1, spanMsMax),
    generationMs: members.integer("generationMs", 1, spanMsMax),
  };
  if (!bytesEqual(bytes, encodeLockPolicy(policy))) throw members.corrupt("it is out of form");
  return policy;
}
