/** What is to be known of a guest before a round: its scripts, and what of it is frozen. */
import { isKluisError } from "#base/kluis-error.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import type { ScriptsKnowledge } from "./scripts/decide-consistency.ts";
import {
  HOST_CONFIG_PATH,
  isPath,
  planHost,
  planMountsToSkip,
  planScripts,
  planSettings,
  SCRIPT_CONFIG_PATH,
  TUNING_PATH,
  type ScriptsPlan,
} from "./scripts/plan-scripts.ts";
import { callExtension } from "./extension/extension.ts";
import { parseInspectedFiles, type InspectedFile } from "./extension/inspected-file.ts";
import type { GuestAgent } from "./guest-agent.ts";
import { listGuestFileSystems } from "./guest-commands.ts";

/** What is known of a guest. */
export interface GuestKnowledge {
  readonly scripts: ScriptsKnowledge;
  /** Mount points that will be frozen; absent where the guest did not name them. */
  readonly mounts?: readonly string[];
  /** Mount points of the guest that are left out. */
  readonly mountsSkipped: readonly string[];
}

/**
 * Looks at a guest through its agent; puts the extension there where that is needed. What cannot be
 * found out is a reason, but an agent that does not answer is AgentUnavailable (backoff).
 */
export async function prepareGuest(
  agent: GuestAgent,
  request: SnapshotRequest,
  signal: AbortSignal | undefined,
): Promise<GuestKnowledge> {
  const found = await lookAtScripts(agent, request, signal);
  const skip = new Set([...(request.mountsToSkip ?? []), ...found.mountsToSkip]);
  const all = await orElse(() => listMounts(agent, signal), undefined);
  if (all === undefined) return { scripts: found.scripts, mountsSkipped: [...skip] };
  return {
    scripts: found.scripts,
    mounts: all.filter((mount) => !skip.has(mount)),
    mountsSkipped: all.filter((mount) => skip.has(mount)),
  };
}

interface ScriptsFound {
  readonly scripts: ScriptsKnowledge;
  readonly mountsToSkip: readonly string[];
}

async function lookAtScripts(
  agent: GuestAgent,
  request: SnapshotRequest,
  signal: AbortSignal | undefined,
): Promise<ScriptsFound> {
  try {
    const known = [TUNING_PATH, HOST_CONFIG_PATH, SCRIPT_CONFIG_PATH];
    const [tuning, host, usual] = await inspect(agent, { read: known, look: [] }, signal);
    const mountsToSkip = planMountsToSkip(tuning ?? missing);
    if (request.consistency !== "application")
      return { scripts: { kind: "unasked" }, mountsToSkip };
    const files = { host: host ?? missing, usual: usual ?? missing };
    return { scripts: await findScripts(agent, files, signal), mountsToSkip };
  } catch (error) {
    signal?.throwIfAborted();
    if (!isKluisError(error, "AgentFailed")) throw error;
    return { scripts: { kind: "unknown", reason: error.message }, mountsToSkip: [] };
  }
}

async function findScripts(
  agent: GuestAgent,
  files: { readonly host: InspectedFile; readonly usual: InspectedFile },
  signal: AbortSignal | undefined,
): Promise<ScriptsPlan> {
  const host = planHost(files.host);
  if (host.kind === "none") return host;
  const { configPath } = host;
  const [config = missing] =
    configPath === SCRIPT_CONFIG_PATH
      ? [files.usual]
      : await inspect(agent, { read: [configPath], look: [] }, signal);
  const plan = planSettings(config, host);
  if (plan.kind === "none") return plan;
  const { settings } = plan;
  const paths = [settings.pre.path, settings.post.path];
  const usable = paths.filter(isPath);
  const looked = await inspect(agent, { read: [], look: usable }, signal);
  const [pre = missing, post = missing] = paths.map(
    (path) => (isPath(path) ? looked[usable.indexOf(path)] : missing) ?? missing,
  );
  return planScripts(settings, { pre, post });
}

const missing: InspectedFile = { kind: "missing" };

async function inspect(
  agent: GuestAgent,
  files: { readonly read: readonly string[]; readonly look: readonly string[] },
  signal: AbortSignal | undefined,
): Promise<readonly InspectedFile[]> {
  const { read, look } = files;
  const text = await callExtension(agent, ["inspect", ...read, "--", ...look], { signal });
  return parseInspectedFiles(text, read.length + look.length);
}

async function listMounts(
  agent: GuestAgent,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  const systems = await listGuestFileSystems(agent, { signal });
  return systems.map((system) => system.mountPoint).sort();
}

/** What an agent that refuses says is not needed; one that is gone is. */
async function orElse<T>(work: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isKluisError(error, "AgentFailed")) throw error;
    return otherwise;
  }
}
