/**
 * Speaks to a guest agent through libvirt, which owns the socket of the agent's channel while it
 * lives: each command is a `virsh qemu-agent-command` of its own, on virsh's standard input, because
 * arguments are seen by every user of the host. Where libvirt is dead the socket is free, and the
 * conversation goes on there.
 */
import type { Clock } from "#base/clock.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { runTool, type ToolResult } from "#drivers/process/run-tool.ts";
import { VIRSH_EDITOR_ENVIRONMENT } from "#drivers/process/virsh-conversation.ts";
import { connectWhenThere, type LineSocket, type LineSocketEvents } from "./line-socket.ts";

const scheme = "virsh:";
/** What libvirt waits for the agent's answer; a freeze may take this long. */
const ANSWER_SECONDS = 10;
/** libvirt waits 30 s for a command before this one. */
const VIRSH_TIMEOUT_MS = 45_000;
const CONNECT_TIMEOUT_MS = 1_000;
/** Longest text of libvirt that a message repeats. */
const COMPLAINT_CHARACTERS_MAX = 500;

/** An agent behind libvirt. */
export interface VirshAgent {
  readonly uri: string;
  /** UUID of the domain. */
  readonly domain: string;
  /** The host's side of the channel. */
  readonly socketPath: string;
}

/** What happens on a channel; each is called outside of any call into it. */
export interface AgentChannelEvents extends LineSocketEvents {
  /** What was written last has no answer, and why; it may have happened all the same. A sync may be asked again. */
  readonly onUnanswered: (reason: string) => void;
}

/** The address of an agent behind libvirt, for GuestAgent. */
export function planVirshAgent(agent: VirshAgent): string {
  return `${scheme}${JSON.stringify(agent)}`;
}

/** The agent of an address; `undefined` where it is a path. */
export function parseVirshAgent(address: string): VirshAgent | undefined {
  if (!address.startsWith(scheme)) return undefined;
  // planVirshAgent of this process, or of the one that started it, wrote it.
  return JSON.parse(address.slice(scheme.length)) as VirshAgent;
}

/** libvirt cannot be reached: it has not had the command. */
const unreachedPattern = /^error: failed to connect/i;
/** libvirt was lost before it answered. */
const lostPattern = /Disconnected from|Cannot recv data|End of file|client socket/;
const noChannelPattern = /guest agent is not configured/;
/** virsh that reads commands shows its prompt, often the command, and the answer on a line of its own. */
const answerPattern = /^\{.*\}$/gm;
const complaintPattern = /^error: (.*)$/m;
const refusalPattern = /unable to execute QEMU agent command '[^']*': ([^\n]*)/;

/** See above. Where libvirt has no answer of the agent, that is told at once. */
export class VirshAgentChannel {
  readonly #agent: VirshAgent;
  readonly #events: AgentChannelEvents;
  readonly #clock: Clock;
  readonly #closing = new AbortController();
  #direct: Promise<LineSocket | undefined> | undefined;
  #isSyncing = false;
  #syncId: unknown;
  #writtenCount = 0;

  constructor(agent: VirshAgent, events: AgentChannelEvents, clock: Clock) {
    this.#agent = agent;
    this.#events = events;
    this.#clock = clock;
  }

  write(bytes: Uint8Array): boolean {
    if (this.#closing.signal.aborted) return false;
    // A sync on a socket begins with a delimiter, which libvirt puts in itself.
    const text = Buffer.from(bytes)
      .toString("utf8")
      .replace(/^[^{]*/, "");
    this.#writtenCount += 1;
    void this.#send(JSON.parse(text) as JsonObject);
    return true;
  }

  end(): void {
    this.destroy();
  }

  destroy(): void {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    void this.#direct?.then((socket) => socket?.destroy());
  }

  async #send(command: JsonObject): Promise<void> {
    try {
      if (this.#direct !== undefined) await this.#sendDirectly(command);
      else if (command["execute"] === "guest-sync-delimited") await this.#sync(command);
      else await this.#execute(command);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.destroy();
      this.#events.onEnd(error as Error);
    }
  }

  /** libvirt answers in order, so one question at a time is enough; the last number asked counts. */
  async #sync(command: JsonObject): Promise<void> {
    const args = command["arguments"];
    this.#syncId = isObject(args) ? args["id"] : undefined;
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    try {
      const id = 1 + Math.trunc(this.#clock.nowMs() % 1_000_000_000);
      const outcome = await this.#run({ execute: "guest-sync", arguments: { id } });
      if (outcome.kind === "answered") this.#tell({ return: this.#syncId }, true);
      else if (outcome.kind !== "silent") await this.#sendDirectly(command);
      else if (!this.#closing.signal.aborted) this.#events.onUnanswered(outcome.reason);
    } finally {
      this.#isSyncing = false;
    }
  }

  async #execute(command: JsonObject): Promise<void> {
    const number = this.#writtenCount;
    const outcome = await this.#run(command);
    // Each command is a process of its own, and may end late: then nobody waits for its answer any more,
    // and a freeze must not be sent once more behind the thaw that was written after it.
    if (number !== this.#writtenCount || this.#closing.signal.aborted) return;
    if (outcome.kind === "answered") this.#tell(outcome.answer, false);
    // Nor one that libvirt was lost with: it may have happened, and scripts are not run twice.
    else if (outcome.kind === "unreached") await this.#sendDirectly(command);
    else this.#events.onUnanswered(outcome.reason);
  }

  async #run(command: JsonObject): Promise<VirshOutcome> {
    const { uri, domain } = this.#agent;
    const name = `qemu-agent-command --timeout ${String(ANSWER_SECONDS)}`;
    const result = await runTool("virsh", ["-q", "-c", uri], {
      stdin: `${name} ${domain} ${quoteForVirsh(command)}\n`,
      timeoutMs: VIRSH_TIMEOUT_MS,
      signal: this.#closing.signal,
      env: VIRSH_EDITOR_ENVIRONMENT,
    });
    if (noChannelPattern.test(result.stderr)) {
      throw new Error("the VM has no channel for a guest agent");
    }
    return readVirshOutcome(result);
  }

  /** On the channel's own socket, from now on. */
  async #sendDirectly(command: JsonObject): Promise<void> {
    this.#direct ??= this.#connect();
    const socket = await this.#direct;
    const delimiter = command["execute"] === "guest-sync-delimited" ? "\u00ff" : "";
    const line = Buffer.from(`${delimiter}${JSON.stringify(command)}\n`, "latin1");
    socket?.write(line);
  }

  async #connect(): Promise<LineSocket | undefined> {
    const options = { timeoutMs: CONNECT_TIMEOUT_MS, clock: this.#clock };
    return connectWhenThere(this.#agent.socketPath, this.#events, options);
  }

  #tell(answer: JsonObject, isDelimited: boolean): void {
    if (this.#closing.signal.aborted) return;
    this.#events.onLine({ text: JSON.stringify(answer), isDelimited });
  }
}

/** A command as a word of virsh: printable ASCII without quotes, in quotes that leave the rest alone. */
function quoteForVirsh(command: JsonObject): string {
  const escape = (character: string): string =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return `'${JSON.stringify(command).replaceAll(/[^ -~]|'/g, escape)}'`;
}

/**
 * What became of a command: the agent's answer or refusal, libvirt that has not had it, libvirt that was
 * lost with it, or no answer of the agent, for a reason in libvirt's words.
 */
export type VirshOutcome =
  | { readonly kind: "answered"; readonly answer: JsonObject }
  | { readonly kind: "unreached" }
  | { readonly kind: "lost" | "silent"; readonly reason: string };

/** Reads what virsh printed. What follows the first complaint is of a second connection, or of its history. */
export function readVirshOutcome(said: Pick<ToolResult, "stdout" | "stderr">): VirshOutcome {
  const { stdout, stderr } = said;
  const answer = stdout.match(answerPattern)?.at(-1);
  if (answer !== undefined) {
    return { kind: "answered", answer: JSON.parse(answer) as JsonObject };
  }
  const refusal = refusalPattern.exec(stderr)?.[1];
  if (refusal !== undefined) {
    return { kind: "answered", answer: { error: { class: "GenericError", desc: refusal } } };
  }
  if (unreachedPattern.test(stderr)) return { kind: "unreached" };
  const complaint = complaintPattern.exec(stderr)?.[1] ?? "libvirt has no answer of it";
  const reason = complaint.slice(0, COMPLAINT_CHARACTERS_MAX);
  return { kind: lostPattern.test(stderr) ? "lost" : "silent", reason };
}
