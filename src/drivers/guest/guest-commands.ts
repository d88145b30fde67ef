/** What Kluis asks of a guest agent, by name. Errors are those of {@link GuestAgent.execute}. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { AGENT_COMMAND_TIMEOUT_MS, type AgentOptions, type GuestAgent } from "./guest-agent.ts";

/** Most bytes of a guest's file that are read; agents are for small things. */
export const GUEST_FILE_BYTES_MAX = 16 * 1024 * 1024;
/** Bytes of a file in one command: through libvirt a command is an argument of at most 128 KiB. */
const FILE_CHUNK_BYTES = 48 * 1024;
/** How long a program may run unless the caller says otherwise. */
export const GUEST_RUN_TIMEOUT_MS = 30_000;
/** How long one look at a running program may take: the agent answers from memory. */
const LOOK_TIMEOUT_MS = 5_000;
/** After so many looks without an answer, one after the other, the agent counts as gone. */
const LOOKS_UNANSWERED_MAX = 3;
/** First wait between two looks at a running program; doubled each time up to the longest. */
const RUN_POLL_MS_MIN = 5;
const RUN_POLL_MS_MAX = 100;

/** What an agent is and which commands it takes. */
export interface AgentInfo {
  readonly version: string;
  readonly enabledCommands: ReadonlySet<string>;
}

/** A file system as the guest mounts it. */
export interface GuestFileSystem {
  readonly device: string;
  readonly mountPoint: string;
  readonly type: string;
  /** Serial numbers of the disks below, which are the names of the VM's disks; where the guest knows them. */
  readonly serials: readonly string[];
}

/** A program to run in the guest. */
export interface GuestProgram {
  readonly path: string;
  readonly args: readonly string[];
  readonly environment?: readonly string[];
  readonly stdin?: Uint8Array;
}

/** How a program ended and what it printed; 128 + signal where a signal ended it. */
export interface GuestProgramResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Resolves where the agent is alive. */
export async function pingGuest(agent: GuestAgent, options?: AgentOptions): Promise<void> {
  await agent.execute("guest-ping", undefined, options);
}

/** Version and commands. */
export async function queryAgentInfo(
  agent: GuestAgent,
  options?: AgentOptions,
): Promise<AgentInfo> {
  const info = toObject(await agent.execute("guest-info", undefined, options), "guest-info");
  const commands = toList(info["supported_commands"], "guest-info");
  return {
    version: String(info["version"]),
    enabledCommands: new Set(
      commands.filter((entry) => entry["enabled"] === true).map((entry) => String(entry["name"])),
    ),
  };
}

/** Freezes every file system, or those mounted at `mountPoints`; returns how many. */
export async function freezeGuest(
  agent: GuestAgent,
  options: AgentOptions & { readonly mountPoints?: readonly string[] } = {},
): Promise<number> {
  const { mountPoints } = options;
  const count =
    mountPoints === undefined
      ? await agent.execute("guest-fsfreeze-freeze", undefined, options)
      : await agent.execute("guest-fsfreeze-freeze-list", { mountpoints: mountPoints }, options);
  return Number(count);
}

/** Thaws every file system; returns how many were frozen. */
export async function thawGuest(agent: GuestAgent, options?: AgentOptions): Promise<number> {
  return Number(await agent.execute("guest-fsfreeze-thaw", undefined, options));
}

/** Whether the agent believes that it froze the guest. */
export async function isGuestFrozen(agent: GuestAgent, options?: AgentOptions): Promise<boolean> {
  return (await agent.execute("guest-fsfreeze-status", undefined, options)) === "frozen";
}

/** File systems that can be frozen, in no order. */
export async function listGuestFileSystems(
  agent: GuestAgent,
  options?: AgentOptions,
): Promise<readonly GuestFileSystem[]> {
  const entries = await agent.execute("guest-get-fsinfo", undefined, options);
  return toList(entries, "guest-get-fsinfo").map((entry) => ({
    device: String(entry["name"]),
    mountPoint: String(entry["mountpoint"]),
    type: String(entry["type"]),
    serials: toList(entry["disk"], "guest-get-fsinfo").flatMap((disk) =>
      typeof disk["serial"] === "string" ? [disk["serial"]] : [],
    ),
  }));
}

/** Asks the guest to power off; it does not answer, and may take its time. */
export function requestGuestShutdown(agent: GuestAgent): void {
  agent.post("guest-shutdown");
}

/**
 * Runs a program in the guest to its end. An exit code other than 0 is a result. Errors: AgentFailed
 * also where the program does not end in time, and where the agent was started anew and so knows
 * nothing of the program; it goes on then. AgentUnavailable where the agent falls silent, long before
 * the program's time is over.
 */
export async function runGuestProgram(
  agent: GuestAgent,
  program: GuestProgram,
  options: AgentOptions = {},
): Promise<GuestProgramResult> {
  const { signal } = options;
  const timeoutMs = options.timeoutMs ?? GUEST_RUN_TIMEOUT_MS;
  const deadlineMs = agent.clock.monotonicMs() + timeoutMs;
  const started = await agent.execute("guest-exec", encodeProgram(program), {
    timeoutMs: Math.min(timeoutMs, AGENT_COMMAND_TIMEOUT_MS),
    signal,
  });
  const { pid } = toObject(started, "guest-exec");
  for (let waitMs = RUN_POLL_MS_MIN; ; waitMs = Math.min(waitMs * 2, RUN_POLL_MS_MAX)) {
    const status = await lookAtProgram(agent, pid, { deadlineMs, signal });
    if (status === undefined) {
      throw new KluisError(
        "AgentFailed",
        `Cannot run "${program.path}" in the guest: it did not end within ${String(timeoutMs)} ms`,
      );
    }
    const result = toResult(status);
    if (result !== undefined) return result;
    await agent.clock.sleep(waitMs, signal);
  }
}

/**
 * One answer about a program; `undefined` where the deadline is over. A question may be lost with the
 * agent that had it: it is asked again, after a sync, and another agent says that it knows no such program.
 */
async function lookAtProgram(
  agent: GuestAgent,
  pid: unknown,
  patience: { readonly deadlineMs: number; readonly signal: AbortSignal | undefined },
): Promise<JsonObject | undefined> {
  const { deadlineMs, signal } = patience;
  let silence: KluisError | undefined;
  for (let unanswered = 0; unanswered < LOOKS_UNANSWERED_MAX; unanswered += 1) {
    const leftMs = deadlineMs - agent.clock.monotonicMs();
    if (leftMs <= 0) break;
    const timeoutMs = Math.min(leftMs, LOOK_TIMEOUT_MS);
    try {
      const status = await agent.execute("guest-exec-status", { pid }, { timeoutMs, signal });
      return toObject(status, "guest-exec-status");
    } catch (error) {
      if (!isKluisError(error, "AgentUnavailable")) throw error;
      silence = error;
    }
  }
  if (silence !== undefined) throw silence;
  return undefined;
}

/** Reads a small file of the guest. Errors: AgentFailed also where it is larger than {@link GUEST_FILE_BYTES_MAX}. */
export async function readGuestFile(
  agent: GuestAgent,
  path: string,
  options?: AgentOptions,
): Promise<Uint8Array> {
  const handle = await agent.execute("guest-file-open", { path, mode: "r" }, options);
  try {
    const parts: Buffer[] = [];
    for (let lengthBytes = 0; lengthBytes <= GUEST_FILE_BYTES_MAX;) {
      const args = { handle, count: FILE_CHUNK_BYTES };
      const answer = toObject(await agent.execute("guest-file-read", args, options), "a file");
      const part = Buffer.from(String(answer["buf-b64"]), "base64");
      parts.push(part);
      lengthBytes += part.byteLength;
      if (answer["eof"] === true || part.byteLength === 0) return Buffer.concat(parts);
    }
  } finally {
    await agent.execute("guest-file-close", { handle }, options);
  }
  throw new KluisError("AgentFailed", `Cannot read "${path}" in the guest: it is too large`);
}

/** Creates or replaces a small file of the guest; the guest's kernel writes it when it likes. */
export async function writeGuestFile(
  agent: GuestAgent,
  path: string,
  content: { readonly bytes: Uint8Array } & AgentOptions,
): Promise<void> {
  const { bytes } = content;
  const handle = await agent.execute("guest-file-open", { path, mode: "w" }, content);
  try {
    for (let at = 0; at < bytes.byteLength;) {
      const part = Buffer.from(bytes.subarray(at, at + FILE_CHUNK_BYTES));
      const args = { handle, "buf-b64": part.toString("base64") };
      const answer = toObject(await agent.execute("guest-file-write", args, content), "a write");
      const written = Number(answer["count"]);
      if (!(written > 0)) {
        throw new KluisError("AgentFailed", `Cannot write "${path}" in the guest: it took nothing`);
      }
      at += written;
    }
    await agent.execute("guest-file-flush", { handle }, content);
  } finally {
    await agent.execute("guest-file-close", { handle }, content);
  }
}

function encodeProgram(program: GuestProgram): JsonObject {
  const { environment, stdin } = program;
  return {
    path: program.path,
    arg: program.args,
    "capture-output": true,
    ...(environment === undefined ? {} : { env: environment }),
    ...(stdin === undefined ? {} : { "input-data": Buffer.from(stdin).toString("base64") }),
  };
}

function toResult(status: JsonObject): GuestProgramResult | undefined {
  if (status["exited"] !== true) return undefined;
  const decode = (data: unknown): string =>
    typeof data === "string" ? Buffer.from(data, "base64").toString("utf8") : "";
  const { exitcode } = status;
  return {
    exitCode: typeof exitcode === "number" ? exitcode : 128 + Number(status["signal"] ?? 0),
    stdout: decode(status["out-data"]),
    stderr: decode(status["err-data"]),
  };
}

function toObject(value: unknown, what: string): JsonObject {
  if (isObject(value)) return value;
  throw new KluisError("AgentFailed", `Cannot read the agent's answer to ${what}: it is no object`);
}

function toList(value: unknown, what: string): readonly JsonObject[] {
  if (Array.isArray(value) && value.every(isObject)) return value;
  throw new KluisError("AgentFailed", `Cannot read the agent's answer to ${what}: it is no list`);
}
