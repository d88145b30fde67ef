/** Runs a described lab VM without the product's driver, with the product's device layout. */
import { access } from "node:fs/promises";
import { join } from "node:path";
import { KluisError } from "#base/kluis-error.ts";
import { waitForProcessEnd } from "#drivers/process/process-identity.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import {
  planQemuArguments,
  planRuntimePaths,
  type QemuRuntime,
  type RuntimePaths,
} from "#drivers/qemu/arguments.ts";
import type { VmDescription } from "#drivers/qemu/description.ts";
import { createGuestExec, type GuestExec } from "./guest-exec.ts";
import { JsonChannel } from "./json-channel.ts";

const qemu = "qemu-system-x86_64";
/** QEMU opens its sockets within a second; a machine under load takes longer. */
const socketTimeoutMs = 60_000;
/** A systemd guest under emulation on a loaded machine takes a minute. */
const agentTimeoutMs = 180_000;
const shutDownTimeoutMs = 90_000;

/** How a machine is started. */
export interface MachineOptions {
  readonly directory: string;
  readonly accelerator: QemuRuntime["accelerator"];
  /** Loads this saved state instead of booting (QEMU's `-incoming`). */
  readonly incoming?: string;
  readonly signal?: AbortSignal;
}

/** A running lab machine. It dies with this process; disposing ends it without a shutdown. */
export interface Machine extends AsyncDisposable {
  readonly daemon: Daemon;
  readonly paths: RuntimePaths;
  readonly qmp: JsonChannel;
  readonly agent: JsonChannel;
  readonly exec: GuestExec;
  /** Has the guest power off and waits until QEMU ended. Errors: VmStateWrong where it stays on. */
  shutDown(): Promise<void>;
}

/** Starts the machine and waits until its guest agent answers. Errors: ToolMissing, VmStartFailed. */
export async function startMachine(
  description: VmDescription,
  options: MachineOptions,
): Promise<Machine> {
  const paths = planRuntimePaths(options.directory);
  const args = planQemuArguments(description, {
    paths,
    accelerator: options.accelerator,
    daemonize: false,
    consolePath: join(options.directory, "console.log"),
    ...(options.incoming === undefined ? {} : { incoming: options.incoming }),
  });
  await using started = new AsyncDisposableStack();
  const daemon = started.use(
    await spawnDaemon(qemu, args, {
      isReady: () => isPresent(paths.qmpSocket),
      readyTimeoutMs: socketTimeoutMs,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    }),
  );
  const qmp = started.use(await JsonChannel.openQmp(paths.qmpSocket, options.signal));
  const agent = started.use(await openAgent(daemon, paths.agentSocket, options.signal));
  const owned = started.move();
  return {
    daemon,
    paths,
    qmp,
    agent,
    exec: createGuestExec(agent),
    shutDown: () => shutDown(daemon, agent),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function shutDown(daemon: Daemon, agent: JsonChannel): Promise<void> {
  agent.post("guest-shutdown");
  if (await waitForProcessEnd(daemon.identity, { timeoutMs: shutDownTimeoutMs })) return;
  throw new KluisError("VmStateWrong", "Cannot shut the lab VM down: its guest does not power off");
}

async function isPresent(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

async function openAgent(
  daemon: Daemon,
  socket: string,
  signal: AbortSignal | undefined,
): Promise<JsonChannel> {
  const timeout = AbortSignal.timeout(agentTimeoutMs);
  const limit = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
  try {
    return await JsonChannel.openAgent(socket, limit);
  } catch (error) {
    signal?.throwIfAborted();
    const said = daemon.stderrTail().trim();
    throw new KluisError(
      "VmStartFailed",
      `Cannot start the lab VM: its guest agent does not answer${said === "" ? "" : `: ${said}`}`,
      { cause: error },
    );
  }
}
