/** Files and folders of a simulated file system, each with the changes that made it. */
import type { FileInfo } from "#drivers/store/file-system.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** Unit in which a disk writes: a torn write keeps some of these and not others. */
const sectorBytes = 512;

/** From the begin to the end of an fsync, as moments of the log. */
export interface SyncSpan {
  readonly beganAt: number;
  readonly endedAt: number;
}

/** A change of a file's content or size. */
export type FileChange =
  | { readonly kind: "write"; readonly offsetBytes: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly sizeBytes: number };

/** A name that a folder got, or lost where `node` is undefined. */
export interface FolderChange {
  readonly name: string;
  readonly node: SimulatedNode | undefined;
}

type At = { readonly at: number };

/** A file or a folder. */
export type SimulatedNode = SimulatedFile | SimulatedFolder;

/** What files and folders have in common: changes, and the fsyncs that covered them. */
abstract class LoggedNode<Change> {
  readonly number: number;
  readonly changes: (Change & At)[] = [];
  readonly #syncs: SyncSpan[] = [];
  /** Changes up to this moment that no fsync covered are dropped for good. */
  readonly #forgotten = new Set<Change & At>();

  constructor(number: number) {
    this.number = number;
  }

  noteSync(span: SyncSpan): void {
    this.#syncs.push(span);
  }

  /** After a failed fsync that began at `moment`: what it was to cover is never called dirty again. */
  forget(moment: number): void {
    for (const change of this.changes) {
      if (change.at < moment && !this.isDurable(change, moment)) this.#forgotten.add(change);
    }
  }

  /** Whether an fsync that had ended by `moment` covers a change. */
  isDurable(change: Change & At, moment: number): boolean {
    if (this.#forgotten.has(change)) return false;
    return this.#syncs.some((sync) => change.at < sync.beganAt && sync.endedAt <= moment);
  }

  protected infoOf(sizeBytes: number, isFile: boolean): FileInfo {
    return {
      dev: 1n,
      ino: BigInt(this.number),
      size: BigInt(sizeBytes),
      mtimeMs: 0n,
      isFile: () => isFile,
      isDirectory: () => !isFile,
    };
  }
}

/** A file. */
export class SimulatedFile extends LoggedNode<FileChange> {
  #content: Uint8Array = new Uint8Array(0);

  /** The content as processes see it. */
  bytes(): Uint8Array {
    return this.#content;
  }

  apply(change: FileChange & At): void {
    this.changes.push(change);
    this.#content = withChange(this.#content, change);
  }

  info(): FileInfo {
    return this.infoOf(this.#content.byteLength, true);
  }

  /** The file as a power failure leaves it; what it holds then is durable. */
  afterPowerLoss(
    moment: number,
    chance: {
      readonly number: number;
      readonly survives: () => boolean;
      readonly random: SeededRandom;
    },
  ): SimulatedFile {
    let content: Uint8Array = new Uint8Array(0);
    for (const change of this.changes) {
      if (change.at > moment) continue;
      if (this.isDurable(change, moment)) content = withChange(content, change);
      else if (change.kind === "write") content = withTornWrite(content, change, chance.survives);
      else if (chance.survives()) content = withChange(content, change);
    }
    const left = new SimulatedFile(chance.number);
    left.apply({ kind: "write", offsetBytes: 0, bytes: content, at: -1 });
    left.noteSync({ beganAt: 0, endedAt: 0 });
    return left;
  }
}

/** A folder. */
export class SimulatedFolder extends LoggedNode<FolderChange> {
  /** As processes see it. */
  readonly entries = new Map<string, SimulatedNode>();

  apply(change: FolderChange & At): void {
    this.changes.push(change);
    if (change.node === undefined) this.entries.delete(change.name);
    else this.entries.set(change.name, change.node);
  }

  /** Gives the folder a durable name. */
  keep(name: string, node: SimulatedNode): void {
    this.apply({ name, node, at: -1 });
    this.noteSync({ beganAt: 0, endedAt: 0 });
  }

  info(): FileInfo {
    return this.infoOf(0, false);
  }

  /** The names that a power failure leaves. */
  entriesAfterPowerLoss(
    moment: number,
    survives: () => boolean,
  ): ReadonlyMap<string, SimulatedNode> {
    const left = new Map<string, SimulatedNode>();
    for (const change of this.changes) {
      if (change.at > moment || !(this.isDurable(change, moment) || survives())) continue;
      if (change.node === undefined) left.delete(change.name);
      else left.set(change.name, change.node);
    }
    return left;
  }
}

/** A copy with room for `sizeBytes` at least. */
function grown(content: Uint8Array, sizeBytes: number): Uint8Array {
  const room = new Uint8Array(Math.max(content.byteLength, sizeBytes));
  room.set(content);
  return room;
}

function withChange(content: Uint8Array, change: FileChange): Uint8Array {
  if (change.kind === "truncate")
    return grown(content, change.sizeBytes).slice(0, change.sizeBytes);
  const changed = grown(content, change.offsetBytes + change.bytes.byteLength);
  changed.set(change.bytes, change.offsetBytes);
  return changed;
}

/** The file with those sectors of a write that survive; between them lie zeros, as in a hole. */
function withTornWrite(
  content: Uint8Array,
  { offsetBytes, bytes }: Extract<FileChange, { kind: "write" }>,
  survives: () => boolean,
): Uint8Array {
  const kept: { readonly at: number; readonly end: number }[] = [];
  for (let at = 0; at < bytes.byteLength;) {
    const sectorEnd = at + sectorBytes - ((offsetBytes + at) % sectorBytes);
    const end = Math.min(bytes.byteLength, sectorEnd);
    if (survives()) kept.push({ at, end });
    at = end;
  }
  const torn = grown(content, offsetBytes + (kept.at(-1)?.end ?? 0));
  for (const { at, end } of kept) torn.set(bytes.subarray(at, end), offsetBytes + at);
  return torn;
}
