/** The way to a guest agent: the socket of its channel, or libvirt where that owns the socket. */
import type { Patience } from "./deadline.ts";
import { connectWhenThere } from "./line-socket.ts";
import {
  parseVirshAgent,
  VirshAgentChannel,
  type AgentChannelEvents,
} from "./virsh-agent-channel.ts";

/** One conversation with an agent: what is written are lines of JSON, what comes are events. */
export interface AgentChannel {
  /** False where the channel has ended. */
  write(bytes: Uint8Array): boolean;
  end(): void;
  destroy(): void;
}

/**
 * Opens a channel; `address` is the path of a socket, or what planVirshAgent made. Rejects with the
 * system's error.
 */
export async function openAgentChannel(
  address: string,
  events: AgentChannelEvents,
  patience: Patience,
): Promise<AgentChannel> {
  const agent = parseVirshAgent(address);
  if (agent === undefined) return connectWhenThere(address, events, patience);
  return new VirshAgentChannel(agent, events, patience.clock);
}
