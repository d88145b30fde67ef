import type { Consistency, VssEvidence } from "#ports/hypervisor.ts";
import type { GuestVerdict } from "../guest-system.ts";
import type { FreezeOutcome } from "../scripts/decide-consistency.ts";
import type { WritersVerdict } from "./vss-writers.ts";

/** All that a verdict on a Windows guest rests on. */
export interface VssRound {
  readonly requested: Consistency;
  readonly freeze: FreezeOutcome;
  /** How VSS was asked. */
  readonly evidence: Pick<VssEvidence, "backupType" | "copyAskedBy">;
  /** Absent where nobody asked the writers. */
  readonly writers?: WritersVerdict;
}

/**
 * What an instant of a Windows guest is worth. Pure: all writers succeeded and writes were held is
 * application-consistent, writes held alone is file-system-consistent, all else crash-consistent.
 */
export function decideVssConsistency(round: VssRound): GuestVerdict {
  const { requested, freeze, writers } = round;
  if (freeze.kind !== "counts") {
    const reason = freeze.kind === "void" ? freeze.reason : "the guest was not frozen";
    return { consistency: "crash", reason, evidence: toEvidence(round) };
  }
  const evidence = toEvidence(round);
  if (requested !== "application") return { consistency: "file-system", evidence };
  if (writers?.kind === "succeeded") return { consistency: "application", evidence };
  return { consistency: "file-system", reason: describe(writers), evidence };
}

function toEvidence(round: VssRound): GuestVerdict["evidence"] {
  const { writers } = round;
  const isCounted = writers?.kind === "succeeded" || writers?.kind === "failed";
  return {
    vss: {
      ...round.evidence,
      ...(isCounted ? { writers: writers.count } : {}),
      ...(writers?.kind === "failed" ? { writersFailed: writers.failed } : {}),
    },
  };
}

function describe(writers: WritersVerdict | undefined): string {
  if (writers === undefined) return "nobody asked the VSS writers";
  if (writers.kind === "failed") {
    const words = writers.failed.map(
      ({ name, state, lastError }) => `${name} (state ${String(state)}, ${lastError})`,
    );
    return `VSS writers failed: ${words.join(", ")}`;
  }
  return writers.kind === "succeeded" ? "" : writers.reason;
}
