/**
 * A file system in memory that remembers which changes an fsync covered, so that a test can ask
 * what a power failure at any moment may leave.
 *
 * It promises no more than POSIX does: fsync of a file covers its content and size alone, fsync of a
 * folder the names in it, and everything else may survive or not, in any combination: each write
 * torn at 512 bytes, each new or removed name by itself. Local file systems keep more than that.
 */
import { constants } from "node:fs";

import { assert, present } from "#base/assert.ts";
import type { FileInfo, FileSystem, FolderEntry, OpenFile } from "#drivers/store/file-system.ts";
import type { SeededRandom } from "./seeded-random.ts";
import {
  type FileChange,
  type FolderChange,
  SimulatedFile,
  SimulatedFolder,
  type SimulatedNode,
} from "./simulated-nodes.ts";

/** A call as a fault rule sees it. */
export interface FileCall {
  readonly call: "open" | "writev" | "fsync" | "truncate" | "link" | "unlink" | "mkdir" | "close";
  readonly path: string;
}

/** What goes wrong with a call: an error, half of a write, or an fsync that does nothing. */
export type FileFault =
  | { readonly kind: "error"; readonly errno: string }
  | { readonly kind: "short" }
  | { readonly kind: "ignored" };

/** Most turns of the event loop that one half of a call takes. */
const callTurnsMax = 3;

/** The file system and its log; each process of a test has a {@link SimulatedProcess} on it. */
export class SimulatedFiles {
  readonly root: SimulatedFolder;
  readonly random: SeededRandom;
  /** Chooses faults; asked once for each call that changes something. */
  fault: (call: FileCall) => FileFault | undefined = () => undefined;
  #moment = 0;
  #nodes = 0;

  /** @param random Chooses how calls interleave. */
  constructor(random: SeededRandom) {
    this.random = random;
    this.root = new SimulatedFolder(this.nextNumber());
  }

  /** Counts changes and the begin and end of every fsync. */
  get moment(): number {
    return this.#moment;
  }

  /** The next moment of the log. */
  tick(): number {
    return ++this.#moment;
  }

  nextNumber(): number {
    return ++this.#nodes;
  }

  /** The calls of one process, which can be killed. */
  startProcess(): SimulatedProcess {
    return new SimulatedProcess(this);
  }

  /**
   * The file system after a power failure at `moment`: all that an fsync covered by then, and of
   * the rest what `random` chooses. The log goes on; other failures can be asked for.
   */
  afterPowerLoss(moment: number, random: SeededRandom): SimulatedFiles {
    const left = new SimulatedFiles(random);
    // From almost nothing to almost all of what was not synced.
    const keep = random.pick([0, 0.1, 0.5, 0.9, 1]);
    const survives = (): boolean => random.chance(keep);
    const copies = new Map<SimulatedNode, SimulatedNode>();
    const copyNode = (node: SimulatedNode): SimulatedNode => {
      const known = copies.get(node);
      if (known !== undefined) return known;
      const copy =
        node instanceof SimulatedFile
          ? node.afterPowerLoss(moment, { number: left.nextNumber(), survives, random })
          : new SimulatedFolder(left.nextNumber());
      copies.set(node, copy);
      if (node instanceof SimulatedFolder && copy instanceof SimulatedFolder) {
        copyEntries(node, copy);
      }
      return copy;
    };
    const copyEntries = (from: SimulatedFolder, to: SimulatedFolder): void => {
      for (const [name, node] of from.entriesAfterPowerLoss(moment, survives)) {
        to.keep(name, copyNode(node));
      }
    };
    copyEntries(this.root, left.root);
    return left;
  }
}

/** What one process of a test calls. Once it is killed, no call of it does anything or ends. */
export class SimulatedProcess implements FileSystem {
  readonly #files: SimulatedFiles;
  #isAlive = true;

  constructor(files: SimulatedFiles) {
    this.#files = files;
  }

  kill(): void {
    this.#isAlive = false;
  }

  async open(path: string, flags: number): Promise<OpenFile> {
    const isNew = (flags & constants.O_CREAT) !== 0;
    const fault = await this.#begin({ call: "open", path }, isNew);
    const { folder, name } = this.#place(path, "open");
    const there = name === "" ? folder : folder.entries.get(name);
    let node = there;
    if (isNew) {
      if (there !== undefined) throw systemError("EEXIST", "open", path);
      throwFault(fault, "open", path);
      node = new SimulatedFile(this.#files.nextNumber());
      this.#note(folder, { name, node });
    }
    if (node === undefined) throw systemError("ENOENT", "open", path);
    const wantsFolder = (flags & constants.O_DIRECTORY) !== 0;
    if (wantsFolder && !(node instanceof SimulatedFolder)) {
      throw systemError("ENOTDIR", "open", path);
    }
    await this.turn();
    return new SimulatedHandle(this, node, path);
  }

  async link(path: string, newPath: string): Promise<void> {
    const fault = await this.#begin({ call: "link", path: newPath });
    const source = this.#find(path, "link");
    const { folder, name } = this.#place(newPath, "link");
    if (folder.entries.has(name)) throw systemError("EEXIST", "link", newPath);
    throwFault(fault, "link", newPath);
    this.#note(folder, { name, node: source });
    await this.turn();
  }

  async unlink(path: string): Promise<void> {
    const fault = await this.#begin({ call: "unlink", path });
    this.#find(path, "unlink");
    throwFault(fault, "unlink", path);
    const { folder, name } = this.#place(path, "unlink");
    this.#note(folder, { name, node: undefined });
    await this.turn();
  }

  async mkdir(path: string): Promise<void> {
    const fault = await this.#begin({ call: "mkdir", path });
    const { folder, name } = this.#place(path, "mkdir");
    if (folder.entries.has(name)) throw systemError("EEXIST", "mkdir", path);
    throwFault(fault, "mkdir", path);
    this.#note(folder, { name, node: new SimulatedFolder(this.#files.nextNumber()) });
    await this.turn();
  }

  async readdir(path: string): Promise<readonly FolderEntry[]> {
    await this.turn();
    const node = this.#find(path, "scandir");
    if (!(node instanceof SimulatedFolder)) throw systemError("ENOTDIR", "scandir", path);
    return [...node.entries].map(([name, inner]) => ({
      name,
      isFile: () => inner instanceof SimulatedFile,
      isDirectory: () => inner instanceof SimulatedFolder,
    }));
  }

  async stat(path: string): Promise<FileInfo> {
    await this.turn();
    return this.#find(path, "stat").info();
  }

  /** Asks for a fault and begins a call on an open file; for {@link SimulatedHandle}. */
  async beginOnFile(call: FileCall): Promise<FileFault | undefined> {
    return await this.#begin(call);
  }

  /** Writes down a change of an open file; for {@link SimulatedHandle}. */
  noteFile(file: SimulatedFile, change: FileChange): void {
    file.apply({ ...change, at: this.#files.tick() });
  }

  tick(): number {
    return this.#files.tick();
  }

  /** Lets other calls go on; never returns in a process that was killed meanwhile. */
  async turn(): Promise<void> {
    for (let turns = this.#files.random.integer(1, callTurnsMax); turns > 0; turns--) {
      await new Promise(setImmediate);
    }
    if (!this.#isAlive) await new Promise<never>(() => {});
  }

  async #begin(call: FileCall, isChange = true): Promise<FileFault | undefined> {
    await this.turn();
    return isChange ? this.#files.fault(call) : undefined;
  }

  #note(folder: SimulatedFolder, change: FolderChange): void {
    folder.apply({ ...change, at: this.#files.tick() });
  }

  #find(path: string, syscall: string): SimulatedNode {
    const { folder, name } = this.#place(path, syscall);
    const node = name === "" ? folder : folder.entries.get(name);
    if (node === undefined) throw systemError("ENOENT", syscall, path);
    return node;
  }

  /** The folder of a path and the name in it; the root with an empty name for `/`. */
  #place(path: string, syscall: string): { folder: SimulatedFolder; name: string } {
    const segments = path.split("/").slice(1);
    const name = present(segments.pop(), "paths are absolute");
    let folder = this.#files.root;
    for (const segment of segments) {
      const next = folder.entries.get(segment);
      if (next === undefined) throw systemError("ENOENT", syscall, path);
      if (!(next instanceof SimulatedFolder)) throw systemError("ENOTDIR", syscall, path);
      folder = next;
    }
    return { folder, name };
  }
}

class SimulatedHandle implements OpenFile {
  readonly #process: SimulatedProcess;
  readonly #node: SimulatedNode;
  readonly #path: string;
  #position = 0;

  constructor(process: SimulatedProcess, node: SimulatedNode, path: string) {
    this.#process = process;
    this.#node = node;
    this.#path = path;
  }

  async read(
    target: Uint8Array,
    offsetBytes: number,
    lengthBytes: number,
    positionBytes: number,
  ): Promise<{ readonly bytesRead: number }> {
    await this.#process.turn();
    if (!(this.#node instanceof SimulatedFile)) throw systemError("EISDIR", "read", this.#path);
    const bytes = this.#node.bytes().subarray(positionBytes, positionBytes + lengthBytes);
    target.set(bytes, offsetBytes);
    return { bytesRead: bytes.byteLength };
  }

  async writev(parts: readonly Uint8Array[]): Promise<{ readonly bytesWritten: number }> {
    const fault = await this.#process.beginOnFile({ call: "writev", path: this.#path });
    throwFault(fault, "write", this.#path);
    const whole = Buffer.concat(parts);
    const bytes = fault?.kind === "short" ? whole.subarray(0, (whole.byteLength + 1) >> 1) : whole;
    this.#process.noteFile(this.#file(), { kind: "write", offsetBytes: this.#position, bytes });
    this.#position += bytes.byteLength;
    await this.#process.turn();
    return { bytesWritten: bytes.byteLength };
  }

  async truncate(sizeBytes: number): Promise<void> {
    const fault = await this.#process.beginOnFile({ call: "truncate", path: this.#path });
    throwFault(fault, "ftruncate", this.#path);
    this.#process.noteFile(this.#file(), { kind: "truncate", sizeBytes });
    await this.#process.turn();
  }

  async sync(): Promise<void> {
    const fault = await this.#process.beginOnFile({ call: "fsync", path: this.#path });
    const beganAt = this.#process.tick();
    await this.#process.turn();
    if (fault?.kind === "error") {
      // What was to be written is dropped and counts as clean: a later fsync says nothing of it.
      this.#node.forget(beganAt);
      throw systemError(fault.errno, "fsync", this.#path);
    }
    if (fault === undefined) this.#node.noteSync({ beganAt, endedAt: this.#process.tick() });
    await this.#process.turn();
  }

  async stat(): Promise<FileInfo> {
    await this.#process.turn();
    return this.#node.info();
  }

  async close(): Promise<void> {
    await this.#process.turn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #file(): SimulatedFile {
    assert(this.#node instanceof SimulatedFile, "only files are written");
    return this.#node;
  }
}

function throwFault(fault: FileFault | undefined, syscall: string, path: string): void {
  if (fault?.kind === "error") throw systemError(fault.errno, syscall, path);
}

/** An error as Node makes it of a failed system call. */
function systemError(code: string, syscall: string, path: string): Error {
  return Object.assign(new Error(`${code}: simulated, ${syscall} '${path}'`), { code, syscall });
}
