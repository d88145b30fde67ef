/** What is changed in a Windows guest before VSS is used, from what is found there. Pure. */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import type { VssEvidence } from "#ports/hypervisor.ts";

/** VSS_BACKUP_TYPE: what the agent asks VSS for, by its registry value `VssOption`. */
export const vssOptions = { full: 1, copy: 5 } as const;
/** Start types of a Windows service. */
const starts = { automatic: 2, manual: 3, disabled: 4 } as const;

/** What was found; docs/design/windows.md. */
export interface VssFacts {
  /** Whether the VSS provider of the QEMU guest agent is registered. */
  readonly isProviderThere: boolean;
  /** Start type of the service VSS. */
  readonly start: number | undefined;
  /** `VssOption`, where it is set. */
  readonly option: number | undefined;
  /** What Kluis changed the option from, and to; absent where it did not. */
  readonly own?: { readonly before: number | undefined; readonly after: number };
  /** `USEVSSCOPYBACKUP`, where it is set. */
  readonly copyFlag: string | undefined;
}

/** What is to be done. */
export interface VssPlan {
  /** Why the guest cannot be frozen; absent where it can. */
  readonly obstacle?: string;
  /** Arguments of the extension's `apply`; absent where nothing is to be changed, or frozen. */
  readonly change?: readonly [start: string, option: string];
  readonly evidence: Pick<VssEvidence, "backupType" | "copyAskedBy">;
}

/** Reads the answer to `inspect`. Errors: AgentFailed (backoff) where it has no known form. */
export function parseVssFacts(text: string): VssFacts {
  const { provider, start, option, own, copy } = parseAnswer(text);
  if (typeof provider !== "boolean") throw unreadable();
  const before = isObject(own) ? own["before"] : undefined;
  const after = isObject(own) ? own["after"] : undefined;
  return {
    isProviderThere: provider,
    start: toNumber(start),
    option: toNumber(option),
    ...(typeof after === "number" ? { own: { before: toNumber(before), after } } : {}),
    copyFlag: typeof copy === "string" ? copy : undefined,
  };
}

/** Decodes an answer of the extension: JSON in base64. Errors: AgentFailed (backoff) where it is none. */
export function parseAnswer(text: string): JsonObject {
  try {
    const value: unknown = JSON.parse(Buffer.from(text.trim(), "base64").toString("utf8"));
    if (isObject(value)) return value;
  } catch (error) {
    throw unreadable(error);
  }
  throw unreadable();
}

/** Whether `USEVSSCOPYBACKUP` asks for copies; any spelling of TRUE does. */
export function isCopyFlag(flag: string | undefined): boolean {
  return flag?.trim().toUpperCase() === "TRUE";
}

/** Plans the round. `isCopyWished`: the policy asks for a copy, whatever the guest says. */
export function planVss(facts: VssFacts, isCopyWished: boolean): VssPlan {
  const isCopy = isCopyWished || isCopyFlag(facts.copyFlag);
  const asked = isCopy ? ({ copyAskedBy: isCopyWished ? "policy" : "guest" } as const) : {};
  const obstacle = findObstacle(facts);
  if (obstacle !== undefined) {
    return { obstacle, evidence: { backupType: typeOf(facts.option), ...asked } };
  }
  const option = planOption(facts, isCopy);
  const willBe =
    option === "restore" ? afterRestore(facts) : option === "keep" ? facts.option : vssOptions.copy;
  const start = facts.start === starts.manual ? String(starts.automatic) : "keep";
  const isChanged = start !== "keep" || option !== "keep";
  return {
    ...(isChanged ? { change: [start, option] } : {}),
    evidence: { backupType: typeOf(willBe), ...asked },
  };
}

/** What others set stays, unless a copy is asked for: a full backup may cut log chains, a copy never does. */
function planOption(facts: VssFacts, isCopy: boolean): string {
  if (isCopy) return facts.option === vssOptions.copy ? "keep" : String(vssOptions.copy);
  return facts.own === undefined ? "keep" : "restore";
}

/** What others have set since Kluis did is not given back. */
function afterRestore({ own, option }: VssFacts): number | undefined {
  return own?.after === option ? own?.before : option;
}

function findObstacle(facts: VssFacts): string | undefined {
  if (!facts.isProviderThere) {
    return "the VSS provider of the QEMU guest agent is not registered; install the agent again as an administrator";
  }
  // Somebody decided so; Kluis does not overrule it.
  if (facts.start === starts.disabled) {
    return "the guest's service VSS is disabled; set its start type to automatic";
  }
  return undefined;
}

function typeOf(option: number | undefined): VssEvidence["backupType"] {
  if (option === vssOptions.copy) return "copy";
  // The agent takes what it does not know for a full backup.
  const isOther = option !== undefined && option > vssOptions.full && option < vssOptions.copy;
  return isOther ? "other" : "full";
}

function toNumber(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}

function unreadable(cause?: unknown): KluisError {
  const message =
    "Cannot read what the backup extension in the guest answers: it has no known form";
  return new KluisError("AgentFailed", message, { cause });
}
