import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { GuestAgent } from "./guest-agent.ts";
import type { GuestPlace, GuestSystem } from "./guest-system.ts";
import { readGuestKind } from "./guest-kind.ts";
import { LinuxGuest } from "./linux-guest.ts";
import { WindowsGuest } from "./windows/windows-guest.ts";

/**
 * Asks a guest what it runs and looks at it, in a session of its own. One that does not say is handled as
 * Linux and never frozen without a watchdog, which Windows cannot have. Errors: Agent*.
 */
export async function openGuestSystem(
  place: GuestPlace,
  request: SnapshotRequest,
  signal: AbortSignal | undefined,
): Promise<GuestSystem> {
  await using agent = await GuestAgent.open(place.agentSocket, { clock: place.clock, signal });
  const kind = await readGuestKind(agent, { signal });
  if (kind === "windows") return await WindowsGuest.open(agent, { place, request }, signal);
  const asked = kind === "unknown" ? { ...request, mayFreezeUnwatched: false } : request;
  return await LinuxGuest.open(agent, asked, signal);
}
