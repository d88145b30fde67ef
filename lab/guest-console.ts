/**
 * A shell in the guest that answers on the port `kluis.lab.ack`, without the guest agent: for tests
 * that kill or stop the agent. It is not there while an acknowledged writer has the port.
 */
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { startInGuest } from "./guest.ts";
import type { GuestExec } from "./guest-exec.ts";

const answerTimeoutMs = 60_000;
/** A command line of the guest's shell reads one byte at a time. */
const commandCharactersMax = 4096;

/** Reads `NUMBER COMMAND` lines, one after the other, and answers `NUMBER OUTPUT`. */
const shell = `exec 3<>/dev/virtio-ports/kluis.lab.ack
[ -w /sys/fs/cgroup/cgroup.procs ] && echo $$ >/sys/fs/cgroup/cgroup.procs
while :; do
  IFS=' ' read -r number command <&3 || { sleep 0.05; continue; }
  said=$(eval "$command" 2>&1 3>&- | tr '\\n' ' ')
  echo "$number $said" >&3
done`;

/** See above. Commands are run in the order in which they were asked. */
export class GuestConsole implements Disposable {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, (said: string) => void>();
  #lastNumber = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // An end shows as an answer that does not come.
    socket.on("error", () => undefined);
    createInterface(socket).on("line", (line) => {
      const match = /^(\d+) (.*)$/u.exec(line);
      this.#waiting.get(Number(match?.[1]))?.((match?.[2] ?? "").trim());
    });
  }

  /** Starts the shell through the agent, and listens on the host's side of the port. */
  static async open(exec: GuestExec, ackSocket: string): Promise<GuestConsole> {
    await startInGuest(exec, ["/bin/sh", "-c", shell]);
    const socket = connect(ackSocket);
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.once("connect", resolve);
    });
    const guestConsole = new GuestConsole(socket);
    await guestConsole.run("true");
    return guestConsole;
  }

  /**
   * Runs a command line of one line and returns what it printed, with blanks for line breaks.
   * Errors: AgentUnavailable where the guest does not answer within `timeoutMs`.
   */
  async run(command: string, timeoutMs = answerTimeoutMs): Promise<string> {
    if (command.includes("\n") || command.length > commandCharactersMax) {
      throw new RangeError("a command of the console is one line");
    }
    this.#lastNumber += 1;
    const number = this.#lastNumber;
    const answer = Promise.withResolvers<string>();
    this.#waiting.set(number, answer.resolve);
    this.#socket.write(`${String(number)} ${command}\n`);
    const ended = new AbortController();
    const late = systemClock.sleep(timeoutMs, ended.signal).then(
      () => {
        throw new KluisError("AgentUnavailable", `The guest did not answer to "${command}"`);
      },
      () => "",
    );
    try {
      return await Promise.race([answer.promise, late]);
    } finally {
      ended.abort();
      this.#waiting.delete(number);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
