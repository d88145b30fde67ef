/**
 * What a power failure may take: everything that no fsync covers. The model follows a trace of
 * system calls and says where a store named content, or promised a name, that could still be lost.
 */
import { dirname, join } from "node:path";

import { descriptorPath, quotedPaths, type TracedCall } from "./system-trace.ts";

/** An object is promised by a line `ack NAME` on standard output. */
const ackPattern = /^1<[^>]*>, "ack ([^"\\]+)\\n"/;

/** From the begin to the end of a call, as positions of the trace. */
type Span = Pick<TracedCall, "beganAt" | "endedAt">;

interface FileState {
  /** Where the last write ended. */
  writtenAt: number;
  /** The last fsync that worked. */
  sync: Span | undefined;
}

/** What the model found. */
export interface DurabilityReport {
  /** Promises or names that came too early; empty where the store is right. */
  readonly violations: readonly string[];
  readonly acknowledged: readonly string[];
  readonly fileSyncs: number;
  readonly directorySyncs: number;
}

/** Follows `calls` on the store in `root`. */
export function checkDurability(root: string, calls: readonly TracedCall[]): DurabilityReport {
  const model = new DurabilityModel(root);
  for (const call of calls) model.follow(call);
  return model;
}

class DurabilityModel implements DurabilityReport {
  readonly violations: string[] = [];
  readonly acknowledged: string[] = [];
  fileSyncs = 0;
  directorySyncs = 0;
  readonly #root: string;
  /** The folder in which the store's own folder was made. */
  readonly #base: string;
  readonly #files = new Map<string, FileState>();
  /** Where the entry of a path was made, or found made by somebody else. */
  readonly #entries = new Map<string, number>();
  /** Every fsync of a directory that worked. */
  readonly #directorySyncs = new Map<string, Span[]>();

  constructor(root: string) {
    this.#root = root;
    this.#base = dirname(root);
  }

  follow(call: TracedCall): void {
    const path = descriptorPath(call.args);
    if (call.call.startsWith("write") || call.call.startsWith("pwrite")) {
      const file = this.#files.get(path);
      if (file !== undefined) file.writtenAt = call.endedAt;
      const name = ackPattern.exec(call.args)?.[1];
      if (name !== undefined) this.#acknowledge(name, call.beganAt);
    } else if (call.call === "openat") this.#opened(call);
    else if (call.call === "fsync" || call.call === "fdatasync") this.#synced(path, call);
    else if (call.call === "mkdir") this.#named(quotedPaths(call.args)[0] ?? "", call);
    else if (call.call === "link") this.#linked(call);
    else this.violations.push(`the model does not know ${call.call}(${call.args})`);
  }

  #opened(call: TracedCall): void {
    const [path = ""] = quotedPaths(call.args);
    if (call.result < 0 || !call.args.includes("O_CREAT") || !this.#isInside(path)) return;
    this.#files.set(path, { writtenAt: call.endedAt, sync: undefined });
  }

  #synced(path: string, call: TracedCall): void {
    if (call.result !== 0 || !this.#isInside(path)) return;
    const file = this.#files.get(path);
    if (file === undefined) {
      this.directorySyncs++;
      this.#directorySyncs.set(path, [...(this.#directorySyncs.get(path) ?? []), call]);
    } else {
      this.fileSyncs++;
      file.sync = call;
    }
  }

  #linked(call: TracedCall): void {
    const [temp = "", path = ""] = quotedPaths(call.args);
    const file = this.#files.get(temp);
    if (!isCovered(file?.writtenAt, file?.sync, call.beganAt)) {
      this.violations.push(`"${path}" got its name before its content was durable`);
    }
    this.#named(path, call);
  }

  #named(path: string, call: TracedCall): void {
    if (call.errno === "" || (call.errno === "EEXIST" && !this.#entries.has(path))) {
      this.#entries.set(path, call.endedAt);
    }
  }

  /** Every entry from the object up to the store's folder must have been covered by an fsync. */
  #acknowledge(name: string, at: number): void {
    this.acknowledged.push(name);
    if (!this.#entries.has(join(this.#root, name))) {
      this.violations.push(`"${name}" was promised but never named`);
    }
    for (let path = join(this.#root, name); path !== this.#base; path = dirname(path)) {
      // A folder that the trace does not make was there before: who made it may not have synced it.
      const madeAt = this.#entries.get(path) ?? -1;
      const syncs = this.#directorySyncs.get(dirname(path)) ?? [];
      if (syncs.some((sync) => isCovered(madeAt, sync, at))) continue;
      this.violations.push(`"${name}" was promised before the entry of "${path}" was durable`);
    }
  }

  #isInside(path: string): boolean {
    return path === this.#base || path.startsWith(`${this.#base}/`);
  }
}

/** Whether a change that ended at `changedAt` is covered by an fsync that ended before `at`. */
function isCovered(changedAt: number | undefined, sync: Span | undefined, at: number): boolean {
  if (changedAt === undefined || sync === undefined) return false;
  return changedAt < sync.beganAt && sync.endedAt < at;
}
