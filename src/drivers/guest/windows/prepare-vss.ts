import { isKluisError } from "#base/kluis-error.ts";
import type { SnapshotRequest, VssEvidence } from "#ports/hypervisor.ts";
import type { GuestAgent } from "../guest-agent.ts";
import { runGuestProgram } from "../guest-commands.ts";
import { isCopyFlag, parseVssFacts, planVss } from "./plan-vss.ts";
import { callWindowsExtension } from "./windows-extension.ts";

/** What a Windows guest is before it is frozen. */
export interface VssPreparation {
  /** Why it must not be frozen; absent where it can be. */
  readonly obstacle?: string;
  /** Why the extension could not do its part; absent where it did. */
  readonly extensionError?: string;
  readonly evidence: Pick<VssEvidence, "backupType" | "copyAskedBy">;
}

/**
 * Looks at a Windows guest by the extension, which is put there where that is needed, and has it make
 * what VSS needs. A guest that cannot have the extension is frozen all the same, as its agent is set,
 * unless a copy is asked for. Errors: AgentUnavailable (backoff).
 */
export async function prepareVss(
  agent: GuestAgent,
  request: SnapshotRequest,
  signal: AbortSignal | undefined,
): Promise<VssPreparation> {
  const isCopyWished = request.isVssCopy === true;
  try {
    const facts = parseVssFacts(await callWindowsExtension(agent, ["inspect"], { signal }));
    const plan = planVss(facts, isCopyWished);
    if (plan.change !== undefined) {
      await callWindowsExtension(agent, ["apply", ...plan.change], { signal });
    }
    const { obstacle, evidence } = plan;
    return { ...(obstacle === undefined ? {} : { obstacle }), evidence };
  } catch (error) {
    signal?.throwIfAborted();
    if (!isKluisError(error, "AgentFailed")) throw error;
    const extensionError = error.message;
    const isCopy = isCopyWished || (await isCopyAskedByGuest(agent, signal));
    const evidence = { backupType: "unknown" } as const;
    if (!isCopy) return { extensionError, evidence };
    const copyAskedBy = isCopyWished ? "policy" : "guest";
    const obstacle = `VSS cannot be told to make a copy backup: ${extensionError}`;
    return { obstacle, extensionError, evidence: { ...evidence, copyAskedBy } };
  }
}

/** Asks the registry without the extension; false also where nobody can look. */
async function isCopyAskedByGuest(
  agent: GuestAgent,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const args = ["query", String.raw`HKLM\SOFTWARE\Microsoft\BcdrAgent`, "/v", "USEVSSCOPYBACKUP"];
  try {
    const { stdout } = await runGuestProgram(agent, { path: "reg.exe", args }, { signal });
    return isCopyFlag(/USEVSSCOPYBACKUP\s+REG_SZ\s+(\S+)/.exec(stdout)?.[1]);
  } catch (error) {
    if (!isKluisError(error, "AgentFailed")) throw error;
    return false;
  }
}
