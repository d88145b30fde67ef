import type { ExtensionAction, ExtensionState } from "#ports/hypervisor.ts";
import { manageExtension } from "./extension/extension.ts";
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
  return await manageExtension(agent, action, { signal: options.signal });
}
