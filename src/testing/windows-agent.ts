/**
 * A guest agent of Windows, played by a program: it speaks the agent's protocol on a socket and says
 * only what a Windows agent says, but no Windows stands behind it. What it plays was read from the
 * sources of qemu-ga and from what administrators show of vssadmin.
 */
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";

import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { systemClock } from "#base/clock.ts";
import { runInWindows, type PlayedProgram } from "./played-powershell.ts";
import { createWindowsState, type WindowsState } from "./windows-state.ts";

/** Commands that a frozen agent answers. */
const allowedFrozen = new Set([
  "guest-ping",
  "guest-info",
  "guest-sync",
  "guest-sync-delimited",
  "guest-fsfreeze-status",
  "guest-fsfreeze-thaw",
]);
/** What an agent from before 2015 knows. */
const oldCommands = new Set([
  ...allowedFrozen,
  "guest-fsfreeze-freeze",
  "guest-file-open",
  "guest-file-close",
  "guest-file-read",
  "guest-file-write",
  "guest-file-flush",
  "guest-get-fsinfo",
]);
const unsupported = "this feature or command is not currently supported";

/** An error that the agent answers with. */
class Refusal extends Error {}

/** See above. One conversation at a time, as on a channel of QEMU. */
export class WindowsAgent implements AsyncDisposable {
  /** The guest; tests arrange it and look at it. */
  readonly guest: WindowsState;
  /** What was asked, in order, and what tests add; `guest-exec` with the words of the program. */
  readonly log: string[] = [];
  /** How long each freeze lasted, until its thaw was answered. */
  readonly freezesMs: number[] = [];
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  readonly #path: string;
  #turn: Promise<void> = Promise.resolve();
  #isFrozen = false;
  #heldSinceMs = 0;
  #nextHandle = 1000;
  readonly #open = new Map<number, { readonly path: string; at: number }>();
  readonly #programs = new Map<number, PlayedProgram>();

  private constructor(path: string) {
    this.#path = path;
    this.guest = createWindowsState();
    this.#server = createServer((socket) => {
      this.#accept(socket);
    });
  }

  /** Listens at `path`, in the place of whoever did so before. */
  static async listen(path: string): Promise<WindowsAgent> {
    await rm(path, { force: true });
    const agent = new WindowsAgent(path);
    await new Promise<void>((resolve, reject) => {
      agent.#server.once("error", reject);
      agent.#server.listen(path, resolve);
    });
    return agent;
  }

  /** Whether the agent believes that the guest is frozen. */
  get isFrozen(): boolean {
    return this.#isFrozen;
  }

  /** As a round that died left it: frozen for the agent, let go by VSS. */
  leaveFrozen(): void {
    this.#isFrozen = true;
    this.#heldSinceMs = Number.NEGATIVE_INFINITY;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await rm(this.#path, { force: true });
  }

  #accept(socket: Socket): void {
    this.#sockets.push(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#sockets.splice(this.#sockets.indexOf(socket), 1);
      this.#serveFirst();
    });
    if (this.#sockets.length === 1) this.#serveFirst();
  }

  #serveFirst(): void {
    const socket = this.#sockets[0];
    if (socket === undefined || socket.listenerCount("data") > 0) return;
    let rest = "";
    socket.setEncoding("latin1").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#turn = this.#turn.then(() => this.#answer(line, socket));
    });
  }

  async #answer(line: string, socket: Socket): Promise<void> {
    const isDelimited = line.startsWith("\u00ff");
    const text = Buffer.from(line.replaceAll("\u00ff", ""), "latin1").toString("utf8");
    const request = JSON.parse(text) as JsonObject;
    const command = String(request["execute"]);
    const args = isObject(request["arguments"]) ? request["arguments"] : {};
    const say = (value: unknown): void => {
      if (!socket.destroyed) socket.write(`${JSON.stringify(value)}\n`);
    };
    if (isDelimited) say({ error: { class: "GenericError", desc: "JSON parse error, stray" } });
    if (command === "guest-sync-delimited") {
      socket.write(Buffer.from([0xff]));
      say({ return: args["id"] });
      return;
    }
    try {
      say({ return: await this.#perform(command, args) });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      say({ error: { class: "GenericError", desc: error.message } });
    }
  }

  async #perform(command: string, args: JsonObject): Promise<unknown> {
    const { faults } = this.guest;
    if (faults.isAgentOld === true && !oldCommands.has(command)) {
      throw new Refusal(`The command ${command} has not been found`);
    }
    if (this.#isFrozen && !allowedFrozen.has(command)) {
      throw new Refusal(`Command ${command} has been disabled: the agent is in frozen state`);
    }
    if (command !== "guest-exec") this.log.push(command);
    if (command.startsWith("guest-fsfreeze-")) return await this.#freezeCommand(command);
    if (command.startsWith("guest-file-")) return this.#fileCommand(command, args);
    if (command === "guest-exec") return this.#exec(args);
    if (command === "guest-exec-status") return this.#execStatus(args);
    return this.#tell(command, args);
  }

  #tell(command: string, args: JsonObject): unknown {
    switch (command) {
      case "guest-ping":
        return {};
      case "guest-sync":
        return args["id"];
      case "guest-info": {
        const known = [...oldCommands, "guest-exec", "guest-exec-status", "guest-get-osinfo"];
        const entries = known.map((name) => ({ name, enabled: true, "success-response": true }));
        return { version: "107.0.1", supported_commands: entries };
      }
      case "guest-get-osinfo":
        return {
          id: "mswindows",
          name: "Microsoft Windows",
          "pretty-name": "Windows Server 2022 Standard",
          "version-id": "2022",
          "kernel-version": "10.0",
          "kernel-release": "20348",
          machine: "x86_64",
          variant: "server",
          "variant-id": "server",
        };
      case "guest-get-fsinfo":
        return this.guest.volumes.map((mountpoint, at) => ({
          name: `\\\\?\\Volume{0000000${String(at)}-0000-0000-0000-100000000000}\\`,
          mountpoint,
          type: "NTFS",
          disk: [],
        }));
      default:
        throw new Refusal(`The command ${command} has not been found`);
    }
  }

  async #freezeCommand(command: string): Promise<unknown> {
    const { faults, volumes } = this.guest;
    if (faults.isVssMissing === true) throw new Refusal(unsupported);
    switch (command) {
      case "guest-fsfreeze-status":
        return this.#isFrozen ? "frozen" : "thawed";
      case "guest-fsfreeze-thaw": {
        if (!this.#isFrozen) return 0;
        await systemClock.sleep(faults.thawMs ?? 0);
        this.#isFrozen = false;
        const heldMs = systemClock.monotonicMs() - this.#heldSinceMs;
        this.freezesMs.push(heldMs);
        if (heldMs < (faults.holdMs ?? 10_000)) return volumes.length;
        throw new Refusal(
          "couldn't hold writes: fsfreeze is limited up to 10 seconds: (error: 80042314)",
        );
      }
      case "guest-fsfreeze-freeze":
      case "guest-fsfreeze-freeze-list":
        if (faults.freezeError !== undefined) throw new Refusal(faults.freezeError);
        await systemClock.sleep(faults.freezeMs ?? 0);
        this.#isFrozen = true;
        this.#heldSinceMs = systemClock.monotonicMs();
        this.guest.backups.push(this.guest.registry.vssOption ?? 1);
        return volumes.length;
      default:
        throw new Refusal(unsupported);
    }
  }

  #fileCommand(command: string, args: JsonObject): unknown {
    const { files } = this.guest;
    if (command === "guest-file-open") {
      const path = String(args["path"]);
      if (args["mode"] === "w") files.set(path, Buffer.alloc(0));
      else if (!files.has(path)) throw new Refusal(`failed to open file '${path}'`);
      this.#open.set(++this.#nextHandle, { path, at: 0 });
      return this.#nextHandle;
    }
    const file = this.#open.get(Number(args["handle"]));
    if (file === undefined) throw new Refusal("handle not found");
    const content = files.get(file.path) ?? Buffer.alloc(0);
    switch (command) {
      case "guest-file-write": {
        const bytes = Buffer.from(String(args["buf-b64"]), "base64");
        files.set(file.path, Buffer.concat([content, bytes]));
        return { count: bytes.byteLength, eof: false };
      }
      case "guest-file-read": {
        const part = content.subarray(file.at, file.at + Number(args["count"]));
        file.at += part.byteLength;
        const isEnd = file.at >= content.byteLength;
        return { count: part.byteLength, "buf-b64": part.toString("base64"), eof: isEnd };
      }
      case "guest-file-close":
        this.#open.delete(Number(args["handle"]));
        return {};
      default:
        return {};
    }
  }

  #exec(args: JsonObject): unknown {
    const words = Array.isArray(args["arg"]) ? args["arg"].map(String) : [];
    const path = String(args["path"]);
    if (this.guest.faults.isExecForbidden === true) {
      this.log.push("guest-exec");
      throw new Refusal("Command guest-exec has been disabled for this instance");
    }
    const program = runInWindows(this.guest, path, words);
    this.log.push(`guest-exec ${program.name}`);
    this.#programs.set(++this.#nextHandle, program);
    return { pid: this.#nextHandle };
  }

  #execStatus(args: JsonObject): unknown {
    const program = this.#programs.get(Number(args["pid"]));
    if (program === undefined) throw new Refusal("PID does not exist");
    if (program.exitCode === undefined) return { exited: false };
    this.#programs.delete(Number(args["pid"]));
    const encode = (text: string): string => Buffer.from(text, "utf8").toString("base64");
    const { stdout, stderr } = program;
    return {
      exited: true,
      exitcode: program.exitCode,
      ...(stdout === "" ? {} : { "out-data": encode(stdout) }),
      ...(stderr === "" ? {} : { "err-data": encode(stderr) }),
    };
  }
}
