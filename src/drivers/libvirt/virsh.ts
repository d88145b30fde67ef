/**
 * Commands of libvirt, each a `virsh` of its own: the maintained client, which knows every kind of
 * address. What is passed in arguments is no secret: addresses and names. XML, which may hold
 * passwords, is virsh's standard input.
 */
import type { FileHandle } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import { runTool, type ToolResult } from "#drivers/process/run-tool.ts";
import { openSecretInput } from "#drivers/process/secret-input.ts";

/** How long a command may take unless the caller says otherwise: libvirt waits 30 s for its own locks. */
export const VIRSH_TIMEOUT_MS = 60_000;

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
export class Virsh {
  readonly uri: string;
  readonly #signal: AbortSignal | undefined;

  /** `signal` ends every command that is given none. */
  constructor(uri: string, signal?: AbortSignal) {
    this.uri = uri;
    this.#signal = signal;
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

function toError(command: string, result: ToolResult): KluisError {
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
