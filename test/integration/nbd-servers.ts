/** Starts real NBD servers on Unix sockets for tests. */
import { stat } from "node:fs/promises";

import { openNbdClient } from "#drivers/nbd/nbd-client.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";

/** How long a server may take to answer. */
const READY_TIMEOUT_MS = 30_000;

/** Starts a server that listens on `socketPath`; ready when it answers a handshake. */
export async function startNbdServer(
  command: string,
  args: readonly string[],
  probe: { readonly socketPath: string; readonly exportName?: string },
): Promise<Daemon> {
  const { exportName = "", socketPath } = probe;
  return spawnDaemon(command, args, {
    readyTimeoutMs: READY_TIMEOUT_MS,
    isReady: async () => {
      if (!(await exists(socketPath))) return false;
      try {
        await using client = await openNbdClient({ transport: "unix", socketPath, exportName });
        return client.info.sizeBytes >= 0;
      } catch {
        // Listens, perhaps, but does not serve yet.
        return false;
      }
    },
  });
}

/** Starts a qemu-nbd that stays when its clients leave. */
export async function startQemuNbdServer(
  socketPath: string,
  args: readonly string[],
): Promise<Daemon> {
  const all = ["--persistent", "--shared=8", `--socket=${socketPath}`, ...args];
  return startNbdServer("qemu-nbd", all, { socketPath });
}

/** Starts nbdkit with the given plugin and filters. */
export async function startNbdkit(socketPath: string, args: readonly string[]): Promise<Daemon> {
  return startNbdServer("nbdkit", ["--foreground", "--unix", socketPath, ...args], { socketPath });
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
