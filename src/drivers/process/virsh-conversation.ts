/**
 * One `virsh` that answers questions one after the other, which saves a process and a connection each.
 * Only for what changes nothing: where an answer is not sure the question is asked once more by others.
 */
import type { Readable } from "node:stream";
import { Socket } from "node:net";

import { toHex } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";
import { startChild, type Child } from "./child.ts";
import {
  guardChild,
  TOOL_OUTPUT_BYTES_MAX,
  TOOL_STDERR_BYTES_MAX,
  type ToolOptions,
  type ToolResult,
} from "./run-tool.ts";

/**
 * What virsh's line editor is told: no history of what was typed (nor is the user's own touched), no
 * key bindings of the user, no terminal. A libvirtd of a session must not be started with this.
 */
export const VIRSH_EDITOR_ENVIRONMENT: Readonly<Record<string, string>> = {
  VIRSH_HISTSIZE: "0",
  XDG_CACHE_HOME: "/dev/null",
  INPUTRC: "/dev/null",
  TERM: "dumb",
  LIBVIRT_AUTOSTART: "0",
};

const TOKEN_BYTES = 8;
/** In virsh's single quotes every printable character but the quote means itself. */
const wordPattern = /^[ -&(-~]+$/;
/** Words of a connection that is lost or never was, after which virsh connects anew; and of some that only sound so. */
const unsurePattern =
  /connect|connection|Cannot recv data|Cannot write data|End of file|keepalive/i;

/** What virsh said to a question. */
export type VirshAnswer = Pick<ToolResult, "stdout" | "stderr">;

interface Question {
  /** What virsh prints before and after the answer. It may show what was typed, which looks otherwise. */
  readonly begin: string;
  readonly end: string;
  readonly settle: () => void;
}

/** See above. One question at a time. */
export class VirshConversation {
  readonly #child: Child;
  readonly #token = toHex(systemRandom.bytes(TOKEN_BYTES));
  #stdout: Buffer = Buffer.alloc(0);
  #stderr: Buffer = Buffer.alloc(0);
  #asked = 0;
  #question: Question | undefined;
  #isUsable = true;

  private constructor(child: Child) {
    this.#child = child;
    const { stdin, stdout, stderr } = child.process;
    // One that ended is noticed by its end.
    stdin?.on("error", () => undefined);
    this.#collect(stdout, (chunk) => {
      this.#stdout = Buffer.concat([this.#stdout, chunk]);
    });
    this.#collect(stderr, (chunk) => {
      this.#stderr = Buffer.concat([this.#stderr, chunk]);
    });
    void child.exited.then(() => {
      this.end();
    });
    // Nobody waits for it but who has asked: that one has a time limit, which keeps us running.
    child.process.unref();
    for (const pipe of [stdin, stdout, stderr]) if (pipe instanceof Socket) pipe.unref();
  }

  /** Starts it; it connects by itself. Errors: ToolMissing, ToolFailed. */
  static async start(uri: string): Promise<VirshConversation> {
    const stdio = ["pipe", "pipe", "pipe"] as const;
    const options = { stdio: [...stdio], env: VIRSH_EDITOR_ENVIRONMENT };
    return new VirshConversation(await startChild("virsh", ["-q", "-c", uri], options));
  }

  /** Whether these words can be asked: those that virsh's quotes leave alone. */
  static canAsk(words: readonly string[]): boolean {
    return words.every((word) => wordPattern.test(word));
  }

  /** False from its end on, and where it said something that nobody asked for, as of a lost connection. */
  get isUsable(): boolean {
    return this.#isUsable;
  }

  /**
   * Asks, and returns what virsh said; `undefined` where it has lost libvirt or ended. Errors: the
   * signal's reason; ToolFailed on timeout. It has ended on each.
   */
  async ask(
    words: readonly string[],
    options: Pick<ToolOptions, "timeoutMs" | "signal">,
  ): Promise<VirshAnswer | undefined> {
    options.signal?.throwIfAborted();
    this.#asked += 1;
    const mark = (word: string): string => `kluis ${word} ${this.#token}.${String(this.#asked)};`;
    const { promise, resolve } = Promise.withResolvers<void>();
    const question = { begin: mark("begin"), end: mark("end"), settle: resolve };
    this.#stdout = Buffer.alloc(0);
    this.#stderr = Buffer.alloc(0);
    this.#question = question;
    const guard = guardChild(this.#child, "virsh", options);
    this.#child.process.stdin?.write(planLine(words, question));
    if (!this.#isUsable) resolve();
    await promise;
    this.#question = undefined;
    await guard.done();
    guard.throwIfFailed();
    const answer = this.#read(question);
    if (answer === undefined) this.end();
    return answer;
  }

  /** Ends it at once: there is nothing that it could leave half done. */
  end(): void {
    this.#isUsable = false;
    this.#child.process.kill("SIGKILL");
    this.#question?.settle();
  }

  #collect(stream: Readable | null, take: (chunk: Buffer) => void): void {
    stream?.on("data", (chunk: Buffer) => {
      take(chunk);
      const isTooMuch =
        this.#stdout.byteLength > TOOL_OUTPUT_BYTES_MAX ||
        this.#stderr.byteLength > TOOL_STDERR_BYTES_MAX;
      const isUnasked = this.#question === undefined && this.#stderr.byteLength > 0;
      if (isTooMuch || isUnasked || unsurePattern.test(this.#stderr.toString("utf8"))) this.end();
      else if (this.#question !== undefined && this.#isAnswered(this.#question)) {
        this.#question.settle();
      }
    });
  }

  #isAnswered({ end }: Question): boolean {
    return this.#stdout.includes(end) && this.#stderr.includes(end);
  }

  #read(question: Question): VirshAnswer | undefined {
    const { begin, end } = question;
    const at = this.#stdout.indexOf(begin);
    if (!this.#isUsable || at === -1 || !this.#isAnswered(question)) return undefined;
    const stdout = this.#stdout.toString("utf8", at + begin.length, this.#stdout.indexOf(end));
    const complaint = this.#stderr.toString("utf8", 0, this.#stderr.indexOf(`error: ${end}`));
    this.#stderr = Buffer.alloc(0);
    return { stdout: stdout.replace(/^\n/, ""), stderr: complaint };
  }
}

/** One line: the answer comes between two marks, without prompts; one more mark ends what is complained of. */
function planLine(words: readonly string[], { begin, end }: Question): string {
  const type = (mark: string): string => `'${mark.slice(0, 5)}' '${mark.slice(6)}'`;
  const asked = words.map((word) => `'${word}'`).join(" ");
  return `echo ${type(begin)}; ${asked}; echo --err ${type(end)}; echo ${type(end)}\n`;
}
