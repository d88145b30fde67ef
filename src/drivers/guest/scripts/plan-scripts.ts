/**
 * Decides from what a guest says of its files whether its pre and post scripts are run. Pure; the
 * rules are those of docs/design/extension.md.
 */
import type { InspectedFile } from "../extension/inspected-file.ts";
import { parseIniSection } from "./parse-ini.ts";
import { NOT_CONFIGURED, type ScriptErrorCode } from "./script-codes.ts";

/** Where a guest configures its scripts. */
export const HOST_CONFIG_PATH = "/etc/azure/VMSnapshotPluginHost.conf";
/** Unless the host configuration names another place. */
export const SCRIPT_CONFIG_PATH = "/etc/azure/VMSnapshotScriptPluginConfig.json";
/** Where a guest says which mount points are not frozen. */
export const TUNING_PATH = "/etc/azure/vmbackup.conf";

/** Longest that any script may take, unless the host configuration says less or more. */
const HOST_TIMEOUT_S = 1800;
const HOST_TIMEOUT_S_MAX = 24 * 3600;
const SCRIPT_TIMEOUT_S = 10;
const RETRIES_MAX = 100;
const PARAMETERS_MAX = 100;
const PARAMETER_CHARACTERS_MAX = 4096;
const MOUNTS_MAX = 256;

/** What the host configuration says. */
export type HostPlan =
  | { readonly kind: "usable"; readonly configPath: string; readonly timeoutMs: number }
  | { readonly kind: "none"; readonly code: ScriptErrorCode };

/** One script as configured. */
export interface ScriptCommand {
  readonly path: string;
  readonly parameters: readonly string[];
  /** The first try and the retries. */
  readonly tries: number;
}

/** What the configuration of the scripts says. */
export interface ScriptSettings {
  readonly pre: ScriptCommand;
  readonly post: ScriptCommand;
  /** Of each script over all its tries. */
  readonly timeoutMs: number;
  /** Whether the host's limit is shorter than what the configuration asked for. */
  readonly isHostLimit: boolean;
  readonly continueBackupOnFailure: boolean;
  readonly fsFreezeEnabled: boolean;
  readonly appName?: string;
}

/** What the configuration of the scripts comes to. */
export type SettingsPlan =
  | { readonly kind: "usable"; readonly settings: ScriptSettings }
  | { readonly kind: "none"; readonly code: ScriptErrorCode };

/** Whether the scripts are run. `none`: as if there were none; `invalid`: they may not be run. */
export type ScriptsPlan =
  | { readonly kind: "none"; readonly code: ScriptErrorCode }
  | {
      readonly kind: "invalid";
      readonly code: ScriptErrorCode;
      readonly settings: ScriptSettings;
    }
  | { readonly kind: "run"; readonly settings: ScriptSettings };

/** Reads the host configuration; without the file the defaults hold. */
export function planHost(file: InspectedFile): HostPlan {
  const usual = { configPath: SCRIPT_CONFIG_PATH, timeoutMs: HOST_TIMEOUT_S * 1000 };
  if (file.kind === "missing") return { kind: "usable", ...usual };
  if (file.kind === "other") return { kind: "none", code: 313 };
  const isReadOnly = (digit: number): boolean => digit === 0 || digit === 4;
  if (!isReadOnly(groupDigit(file.mode)) || !isReadOnly(otherDigit(file.mode))) {
    return { kind: "none", code: 314 };
  }
  if (file.ownerId !== 0) return { kind: "none", code: 315 };
  const members = parseIniSection(textOf(file), "pre_post");
  if (members === undefined) return { kind: "none", code: 304 };
  const seconds = members.get("timeoutinseconds") ?? String(HOST_TIMEOUT_S);
  const configPath = members.get("pluginconfigpath0") ?? SCRIPT_CONFIG_PATH;
  const timeoutS = /^\d{1,6}$/.test(seconds) ? Number(seconds) : 0;
  if (timeoutS < 1 || timeoutS > HOST_TIMEOUT_S_MAX || !isPath(configPath)) {
    return { kind: "none", code: 304 };
  }
  if (members.get("numberofplugins") === "0") return { kind: "none", code: NOT_CONFIGURED };
  return { kind: "usable", configPath, timeoutMs: timeoutS * 1000 };
}

/** Reads the configuration of the scripts. */
export function planSettings(
  file: InspectedFile,
  host: { readonly timeoutMs: number },
): SettingsPlan {
  if (file.kind === "missing") return { kind: "none", code: NOT_CONFIGURED };
  if (file.kind === "other") return { kind: "none", code: 305 };
  const isOwnersOnly = groupDigit(file.mode) === 0 && otherDigit(file.mode) === 0;
  if (!isOwnersOnly || ownerDigit(file.mode) % 2 !== 0) return { kind: "none", code: 317 };
  if (file.ownerId !== 0) return { kind: "none", code: 318 };
  const settings = parseSettings(textOf(file), host.timeoutMs);
  return settings === undefined ? { kind: "none", code: 305 } : { kind: "usable", settings };
}

/** Checks the scripts themselves, pre first. */
export function planScripts(
  settings: ScriptSettings,
  scripts: { readonly pre: InspectedFile; readonly post: InspectedFile },
): ScriptsPlan {
  const code =
    checkScript(scripts.pre, { missing: 302, permission: 306 }) ??
    checkScript(scripts.post, { missing: 303, permission: 307 });
  return code === undefined ? { kind: "run", settings } : { kind: "invalid", code, settings };
}

/** The mount points that the guest itself wants left out; none where its file is not to be trusted. */
export function planMountsToSkip(file: InspectedFile): readonly string[] {
  if (file.kind !== "file" || file.ownerId !== 0) return [];
  const isWritable = [groupDigit(file.mode), otherDigit(file.mode)].some(
    (digit) => (digit & 2) !== 0,
  );
  if (isWritable) return [];
  const list = parseIniSection(textOf(file), "SnapshotThread")?.get("mountstoskip") ?? "";
  const mounts = list.split(",").map((mount) => mount.trim());
  return mounts.filter(isPath).slice(0, MOUNTS_MAX);
}

function checkScript(
  file: InspectedFile,
  codes: { readonly missing: ScriptErrorCode; readonly permission: ScriptErrorCode },
): ScriptErrorCode | undefined {
  if (file.kind !== "file") return codes.missing;
  const isOwnersOnly = groupDigit(file.mode) === 0 && otherDigit(file.mode) === 0;
  return isOwnersOnly && file.ownerId === 0 ? undefined : codes.permission;
}

function parseSettings(text: string, hostTimeoutMs: number): ScriptSettings | undefined {
  const members = parseObject(text);
  if (members === undefined) return undefined;
  const pre = parseCommand(members, "pre");
  const post = parseCommand(members, "post");
  const timeoutS = parseCount(members["timeoutInSeconds"], SCRIPT_TIMEOUT_S, HOST_TIMEOUT_S_MAX);
  const mayContinue = parseSwitch(members["continueBackupOnFailure"]);
  const mayFreeze = parseSwitch(members["fsFreezeEnabled"]);
  if (pre === undefined || post === undefined || timeoutS === undefined || timeoutS === 0) {
    return undefined;
  }
  if (mayContinue === undefined || mayFreeze === undefined) return undefined;
  const { appName } = members;
  return {
    pre,
    post,
    timeoutMs: Math.min(timeoutS * 1000, hostTimeoutMs),
    isHostLimit: timeoutS * 1000 > hostTimeoutMs,
    continueBackupOnFailure: mayContinue,
    fsFreezeEnabled: mayFreeze,
    ...(typeof appName === "string" && appName !== ""
      ? { appName: appName.slice(0, PARAMETER_CHARACTERS_MAX) }
      : {}),
  };
}

function parseCommand(
  members: Readonly<Record<string, unknown>>,
  which: "pre" | "post",
): ScriptCommand | undefined {
  const path = members[`${which}ScriptLocation`];
  const parameters = members[`${which}ScriptParams`] ?? [];
  const retries = parseCount(members[`${which}ScriptNoOfRetries`], 0, RETRIES_MAX);
  if (typeof path !== "string" || retries === undefined || !isParameterList(parameters)) {
    return undefined;
  }
  return { path, parameters, tries: 1 + retries };
}

function isParameterList(value: unknown): value is readonly string[] {
  return (
    Array.isArray(value) &&
    value.length <= PARAMETERS_MAX &&
    value.every((item) => typeof item === "string" && isWord(item))
  );
}

function isWord(text: string): boolean {
  return text.length <= PARAMETER_CHARACTERS_MAX && !text.includes("\0");
}

/** A path that can be handed to the guest; where it is none the script counts as missing. */
export function isPath(text: string): boolean {
  return text.startsWith("/") && isWord(text) && !text.includes("\n");
}

function parseCount(value: unknown, usual: number, max: number): number | undefined {
  if (value === undefined) return usual;
  const isCount = typeof value === "number" && Number.isInteger(value) && value >= 0;
  return isCount ? Math.min(value, max) : undefined;
}

function parseSwitch(value: unknown): boolean | undefined {
  if (value === undefined) return true;
  return typeof value === "boolean" ? value : undefined;
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    return isObject ? (value as Readonly<Record<string, unknown>>) : undefined;
  } catch {
    // What is no JSON has a code of its own.
    return undefined;
  }
}

function textOf(file: Exclude<InspectedFile, { readonly kind: "missing" }>): string {
  return new TextDecoder().decode(file.content);
}

function ownerDigit(mode: number): number {
  return (mode >> 6) & 7;
}

function groupDigit(mode: number): number {
  return (mode >> 3) & 7;
}

function otherDigit(mode: number): number {
  return mode & 7;
}
