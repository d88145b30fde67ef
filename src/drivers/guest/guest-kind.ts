import { isKluisError } from "#base/kluis-error.ts";
import { isObject } from "#formats/qmp-wire.ts";
import type { AgentOptions, GuestAgent } from "./guest-agent.ts";

/** What decides how a guest is brought to rest. */
export type GuestKind = "windows" | "linux" | "unknown";

/**
 * Asks the guest what it runs. Whatever answers and does not say that it is Windows is taken for Linux;
 * an agent too old to answer may be one of Windows. Errors: AgentUnavailable (backoff).
 */
export async function readGuestKind(
  agent: GuestAgent,
  options: AgentOptions = {},
): Promise<GuestKind> {
  try {
    const info = await agent.execute("guest-get-osinfo", undefined, options);
    return isObject(info) && info["id"] === "mswindows" ? "windows" : "linux";
  } catch (error) {
    if (!isKluisError(error, "AgentFailed")) throw error;
    return "unknown";
  }
}
