/** What differs between the systems that guests run; docs/design/snapshots.md, "Guests". */
import type { KluisError } from "#base/kluis-error.ts";
import type { Consistency, ConsistencyEvidence } from "#ports/hypervisor.ts";
import type { FreezeRound, FreezeRoundOptions } from "./freeze-round.ts";
import type { FreezePlan } from "./guard-wire.ts";
import type { GuestAgent } from "./guest-agent.ts";
import type { FreezeOutcome } from "./scripts/decide-consistency.ts";

/** Where a round of a guest puts its files. */
export type GuestPlace = Omit<FreezeRoundOptions, "plan">;

/**
 * A guest in one round, in the way of its system. Made from what the guest says of itself; then
 * quiesce, (freeze, the instant, thaw), conclude, keepNote, each at most once, in this order.
 */
export interface GuestSystem {
  /** Mount points that will be frozen; absent where the guest did not name them. */
  readonly mounts?: readonly string[];
  /** Mount points of the guest that are left out. */
  readonly mountsSkipped: readonly string[];
  /** GuestScriptFailed where the guest's configuration forbids to begin a backup. */
  readonly refusal?: KluisError;
  /** How it is frozen, or why it is not. */
  readonly freeze: FreezeWish;
  /**
   * What is done before the freeze. Resolves with the reason where the guest must not be frozen.
   * Errors: GuestScriptFailed (after-change) where the backup may not go on; `note` says why.
   */
  quiesce(round: FreezeRound, signal: AbortSignal | undefined): Promise<string | undefined>;
  /** What is done after the thaw, and what the instant is worth. Never fails for want of a guest. */
  conclude(freeze: FreezeOutcome, round: FreezeRound | undefined): Promise<GuestVerdict>;
  /** Leaves in the guest what the backup came to. Errors: Agent*. */
  keepNote(agent: GuestAgent, note: BackupNote): Promise<void>;
}

/** How a guest is frozen. `off`: its own configuration does without; `not`: it cannot be. */
export type FreezeWish =
  | { readonly kind: "freeze" | "off"; readonly plan: Omit<FreezePlan, "token"> }
  | { readonly kind: "not"; readonly reason: string };

/** What an instant is worth, and what of the evidence only the guest's system knows. */
export interface GuestVerdict {
  readonly consistency: Consistency;
  readonly reason?: string;
  readonly evidence: Pick<ConsistencyEvidence, "scripts" | "vss">;
  /** GuestScriptFailed: the guest's configuration forbids to keep the snapshot. */
  readonly refusal?: KluisError;
}

/** What a backup came to. */
export interface BackupNote {
  readonly status: Consistency | "refused";
  /** Why it is not better; empty where it could not be. */
  readonly error: string;
}
