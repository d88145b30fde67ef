import type { ExtensionAction, ExtensionState } from "#ports/hypervisor.ts";
import { manageExtension } from "./extension/extension.ts";
import { readGuestKind } from "./guest-kind.ts";
import { manageWindowsExtension } from "./windows/windows-extension.ts";
import { GuestAgent, type AgentOpenOptions } from "./guest-agent.ts";

/**
 * Shows, puts in, or takes out the backup extension of a running guest, in a session of its own;
 * returns what is there then. Errors: Agent*.
 */
export async function manageGuestExtension(
  agentSocket: string,
  action: ExtensionAction,
  options: Omit<AgentOpenOptions, "timeoutMs">,
): Promise<ExtensionState> {
  await using agent = await GuestAgent.open(agentSocket, options);
  const { signal } = options;
  const kind = await readGuestKind(agent, { signal });
  if (kind === "windows") return await manageWindowsExtension(agent, action, { signal });
  return await manageExtension(agent, action, { signal });
}
