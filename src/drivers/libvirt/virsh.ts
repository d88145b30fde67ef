/**
 * Commands of libvirt by `virsh`, the maintained client, which knows every kind of address. What changes
 * something is a process of its own; questions share one. What is passed in arguments is no secret:
 * addresses and names. XML, which may hold passwords, is virsh's standard input.
 */
import type { FileHandle } from "node:fs/promises";

import { systemClock, type Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { runTool, type ToolResult } from "#drivers/process/run-tool.ts";
import { openSecretInput } from "#drivers/process/secret-input.ts";
import { VirshConversation, type VirshAnswer } from "#drivers/process/virsh-conversation.ts";

/** How long a command may take unless the caller says otherwise: libvirt waits 30 s for its own locks. */
export const VIRSH_TIMEOUT_MS = 60_000;
/** A virsh that nobody asks ends after so long; an operation asks again within some milliseconds. */
const IDLE_MS_MAX = 1_000;

/** How a command is run. */
export interface VirshOptions {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /** Read by commands that have {@link VIRSH_XML} among their arguments. */
  readonly xml?: string;
}

/** The argument that names the file with {@link VirshOptions.xml}. */
export const VIRSH_XML = "/dev/stdin";

/** Commands for one libvirt. */
export class Virsh implements Disposable {
  readonly uri: string;
  readonly #signal: AbortSignal | undefined;
  readonly #clock: Clock;
  #conversation: VirshConversation | undefined;
  #isAsking = false;
  #idle = new AbortController();

  /** `signal` ends every command that is given none, and the process that answers questions. */
  constructor(uri: string, signal?: AbortSignal, clock: Clock = systemClock) {
    this.uri = uri;
    this.#signal = signal;
    this.#clock = clock;
    signal?.addEventListener("abort", () => {
      this[Symbol.dispose]();
    });
  }

  /**
   * As {@link run}, for a command that changes nothing: a virsh that is there already is asked, and where
   * it has no sure answer, or is being asked, the command is run.
   */
  async ask(args: readonly string[], options: Omit<VirshOptions, "xml"> = {}): Promise<string> {
    if (this.#isAsking || !VirshConversation.canAsk(args)) return await this.run(args, options);
    const startMs = this.#clock.monotonicMs();
    const { timeoutMs = VIRSH_TIMEOUT_MS } = options;
    this.#isAsking = true;
    let answer: VirshAnswer | undefined;
    try {
      answer = await this.#converse(args, { ...options, timeoutMs });
    } finally {
      this.#isAsking = false;
    }
    if (answer === undefined) {
      const leftMs = Math.max(0, timeoutMs - (this.#clock.monotonicMs() - startMs));
      return await this.run(args, { ...options, timeoutMs: leftMs });
    }
    if (answer.stderr === "") return answer.stdout;
    throw toError(args[0] ?? "", { exitCode: 1, ...answer });
  }

  /** Ends the process that answers questions; the next question starts another. */
  [Symbol.dispose](): void {
    this.#idle.abort();
    this.#conversation?.end();
    this.#conversation = undefined;
  }

  /**
   * Runs a command and returns what it printed. Errors: VmNotFound where it names no domain;
   * QmpFailed (backoff) with libvirt's words, with `refused` in the details where libvirt itself
   * said no; where it is absent the command may have happened.
   */
  async run(args: readonly string[], options: VirshOptions = {}): Promise<string> {
    if (options.xml === undefined) return this.#run(args, options, undefined);
    const xml = await openSecretInput(options.xml);
    try {
      return await this.#run(args, options, xml);
    } finally {
      await xml.close();
    }
  }

  async #converse(
    args: readonly string[],
    options: VirshOptions & { readonly timeoutMs: number },
  ): Promise<VirshAnswer | undefined> {
    const { signal = this.#signal, timeoutMs } = options;
    this.#idle.abort();
    if (this.#conversation?.isUsable !== true) {
      this.#conversation = await VirshConversation.start(this.uri);
    }
    try {
      const wait = { timeoutMs, ...(signal === undefined ? {} : { signal }) };
      return await this.#conversation.ask(args, wait);
    } finally {
      this.#idle = new AbortController();
      void this.#endWhenIdle(this.#idle.signal);
    }
  }

  async #endWhenIdle(asked: AbortSignal): Promise<void> {
    try {
      await this.#clock.sleep(IDLE_MS_MAX, asked);
      this[Symbol.dispose]();
    } catch (error) {
      if (!asked.aborted) throw error;
    }
  }

  async #run(
    args: readonly string[],
    options: VirshOptions,
    xml: FileHandle | undefined,
  ): Promise<string> {
    const { signal = this.#signal, timeoutMs = VIRSH_TIMEOUT_MS } = options;
    const result = await runTool("virsh", ["-q", "-c", this.uri, ...args], {
      timeoutMs,
      ...(signal === undefined ? {} : { signal }),
      ...(xml === undefined ? {} : { stdinFile: xml }),
    });
    if (result.exitCode === 0) return result.stdout;
    throw toError(args[0] ?? "", result);
  }
}

/** Whether libvirt said no, so that nothing has happened. */
export function isVirshRefusal(error: unknown): error is KluisError {
  return error instanceof KluisError && error.details["refused"] === true;
}

/** The connection was lost or never there: nobody knows what libvirt did. */
const lostPattern =
  /failed to connect|Failed to connect|Cannot recv data|Cannot write data|End of file|closed connection|connection .*(?:lost|reset|closed)|client socket is closed|keepalive/i;

function toError(command: string, result: Omit<ToolResult, "stdout">): KluisError {
  const lines = result.stderr.split("\n").filter((line) => line.startsWith("error: "));
  const said = lines.map((line) => line.slice("error: ".length)).join("; ");
  const reason = said === "" ? `exit code ${String(result.exitCode)}` : said;
  if (/Domain not found|failed to get domain/.test(reason) && !lostPattern.test(reason)) {
    return new KluisError("VmNotFound", `Cannot find the VM: ${reason}`);
  }
  const isRefused = result.exitCode === 1 && !lostPattern.test(reason);
  return new KluisError("QmpFailed", `Cannot run "${command}" of libvirt: ${reason}`, {
    details: { command, ...(isRefused ? { refused: true } : {}) },
  });
}
