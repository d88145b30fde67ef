/** Reads whole objects of a vault and checks everything in them. */
import { bytesEqual, toHex } from "#base/bytes.ts";
import { fromSerializedError, isKluisError, toKluisError } from "#base/kluis-error.ts";
import { Semaphore } from "#base/semaphore.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import type { IndexEntry, IndexPack } from "#formats/index-segment.ts";
import { mapPackName, packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import { computeId } from "#vault/hashing.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { type Damage, verdictOf } from "#vault/verify/damage.ts";
import { type ReadObject, readChecked } from "#vault/verify/read-object.ts";
import type { PackToCheck } from "#vault/workers/check-pack.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";

/** Frames of packs that are opened at once. */
const framesInFlight = 16;

/** What the checks of one verification share. */
export interface CheckDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly pool: WorkerPool;
  readonly damage: Damage;
  readonly signal: AbortSignal | undefined;
  /** Whether an object that is missing was removed on purpose. */
  readonly wasRemoved: (name: string) => Promise<boolean>;
  /** Told the bytes of each object that was read, and the blocks and nodes whose ids were checked. */
  readonly onChecked: (bytes: number, blocks: number) => void;
}

/** Checks objects; calls may overlap. */
export class ObjectChecker {
  readonly #deps: CheckDeps;
  readonly #frames = new Semaphore(framesInFlight);
  /** Objects that were read and hash to their names. */
  readonly whole = new Set<string>();

  constructor(deps: CheckDeps) {
    this.#deps = deps;
  }

  /** Checks that an object hashes to its name; needs no key. */
  async checkName(name: string, sha256: Uint8Array): Promise<ReadObject> {
    const { store, signal, damage } = this.#deps;
    const read = await readChecked({ store, signal }, name, sha256);
    this.#deps.onChecked(read.bytesRead, 0);
    if (read.verdict === "sound") this.whole.add(name);
    const isRemoved = read.kind === "missing" && (await this.#deps.wasRemoved(name));
    if (read.verdict !== "sound" && !isRemoved) {
      damage.addObject({ name, verdict: read.verdict, reason: read.reason });
    }
    return read;
  }

  /**
   * Checks a pack by its name and, if that is wrong or `isDeep`, every frame and the id of every block
   * or node in it.
   */
  async checkPack(pack: IndexPack, isDeep: boolean): Promise<void> {
    const { damage } = this.#deps;
    const name = pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
    if (isDeep && (await this.#isSound(pack, name))) return;
    const read = await this.checkName(name, pack.name);
    if (read.kind !== "read") {
      damage.addPack(pack.name, read.verdict);
      return;
    }
    // A wrong name does not make every frame wrong: those that open are still of use.
    if (read.verdict !== "sound" || isDeep) await this.checkFrames(pack, read.bytes);
  }

  /** Opens every frame of a pack, and compares every block or node in it with its id. */
  async checkFrames(pack: IndexPack, bytes: Uint8Array): Promise<void> {
    const name = pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name);
    const entries = groupByFrame(pack);
    let offset = containerHeaderBytes;
    const checks: Promise<void>[] = [];
    for (const [number, { sealedBytes }] of pack.frames.entries()) {
      const start = offset;
      offset += sealedBytes;
      const inFrame = entries.get(number) ?? [];
      checks.push(
        this.#frames.run(() => {
          // A copy, because a worker takes it over.
          const sealed = new Uint8Array(bytes.subarray(start, start + sealedBytes));
          return this.#checkFrame({ pack, name, number, sealed, inFrame });
        }),
      );
    }
    const results = await Promise.allSettled(checks);
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  /**
   * Whether all of a pack is as it was written, at one go in a thread. Where it is not, or cannot be
   * read, nothing is noted yet: it is looked at frame by frame then.
   */
  async #isSound(pack: IndexPack, name: string): Promise<boolean> {
    const { store, pool, signal } = this.#deps;
    let bytes: Uint8Array;
    try {
      bytes = await store.get(name, undefined, signal);
    } catch (error) {
      signal?.throwIfAborted();
      if (isKluisError(error)) return false;
      throw error;
    }
    // A thread takes over the whole buffer.
    if (bytes.byteLength !== bytes.buffer.byteLength) bytes = new Uint8Array(bytes);
    const bytesRead = bytes.byteLength;
    if (!(await pool.isPackSound(toCheck(pack, name, bytes.buffer as ArrayBuffer)))) return false;
    this.whole.add(name);
    this.#deps.onChecked(bytesRead, pack.entries.length);
    return true;
  }

  async #checkFrame(frame: FrameToCheck): Promise<void> {
    const { damage, signal } = this.#deps;
    const { pack, name, number, inFrame } = frame;
    signal?.throwIfAborted();
    try {
      const bad = await (pack.type === "pack" ? this.#openBlocks(frame) : this.#openNodes(frame));
      for (const at of bad) {
        const entry = inFrame[at];
        if (entry === undefined) continue;
        damage.addBlock(entry.id, { pack: pack.name, frame: number });
        const reason = `block "${toHex(entry.id)}" in it does not match its id`;
        damage.addObject({ name, verdict: "damaged", reason });
      }
      this.#deps.onChecked(0, inFrame.length);
    } catch (error) {
      signal?.throwIfAborted();
      const known = toKluisError(error);
      if (known.code === "Internal") throw error;
      damage.addFrame(pack.name, number, verdictOf(known));
      damage.addObject({ name, verdict: verdictOf(known), reason: known.message });
    }
  }

  /** Opens a frame of blocks in a worker; returns which entries are wrong. */
  async #openBlocks(frame: FrameToCheck): Promise<readonly number[]> {
    const { pack, name, number, sealed, inFrame } = frame;
    const { failures, bad } = await this.#deps.pool.openFrames({
      buffer: sealed.buffer as ArrayBuffer,
      packName: name,
      epoch: pack.epoch,
      salt: new Uint8Array(pack.salt),
      startsBytes: new Uint32Array(1),
      sealedBytes: Uint32Array.of(sealed.byteLength),
      plainBytes: Uint32Array.of(pack.frames[number]?.plainBytes ?? 0),
      ids: joinIds(inFrame),
      frames: new Uint32Array(inFrame.length),
      offsetsBytes: Uint32Array.from(inFrame, (entry) => entry.offsetBytes),
      lengthsBytes: Uint32Array.from(inFrame, (entry) => entry.lengthBytes),
    });
    for (const { error } of failures) throw fromSerializedError(error);
    return bad;
  }

  async #openNodes(frame: FrameToCheck): Promise<readonly number[]> {
    const { pack, name, number, sealed, inFrame } = frame;
    const { keys } = this.#deps;
    const expected = {
      sealedBytes: sealed.byteLength,
      plainBytes: pack.frames[number]?.plainBytes ?? 0,
    };
    const plain = openFetchedFrame(sealOf(keys, pack), sealed, expected, name);
    const bad: number[] = [];
    for (const [at, { id, offsetBytes, lengthBytes }] of inFrame.entries()) {
      const node = plain.subarray(offsetBytes, offsetBytes + lengthBytes);
      const isWhole = node.byteLength === lengthBytes;
      if (!isWhole || !bytesEqual(computeId(keys.nodeIdKey, node), id)) bad.push(at);
    }
    return bad;
  }
}

interface FrameToCheck {
  readonly pack: IndexPack;
  readonly name: string;
  readonly number: number;
  readonly sealed: Uint8Array;
  readonly inFrame: readonly IndexEntry[];
}

function toCheck(pack: IndexPack, name: string, buffer: ArrayBuffer): PackToCheck {
  const entries = pack.entries.toSorted((a, b) => a.frame - b.frame);
  return {
    type: pack.type,
    buffer,
    packName: name,
    sha256: new Uint8Array(pack.name),
    epoch: pack.epoch,
    salt: new Uint8Array(pack.salt),
    sealedBytes: Uint32Array.from(pack.frames, (frame) => frame.sealedBytes),
    plainBytes: Uint32Array.from(pack.frames, (frame) => frame.plainBytes),
    ids: joinIds(entries),
    frames: Uint32Array.from(entries, (entry) => entry.frame),
    offsetsBytes: Uint32Array.from(entries, (entry) => entry.offsetBytes),
    lengthsBytes: Uint32Array.from(entries, (entry) => entry.lengthBytes),
  };
}

function joinIds(entries: readonly IndexEntry[]): Uint8Array {
  const ids = new Uint8Array(entries.length * idBytes);
  for (const [at, { id }] of entries.entries()) ids.set(id, at * idBytes);
  return ids;
}

function groupByFrame(pack: IndexPack): ReadonlyMap<number, readonly IndexEntry[]> {
  const groups = new Map<number, IndexEntry[]>();
  for (const entry of pack.entries) {
    const group = groups.get(entry.frame);
    if (group === undefined) groups.set(entry.frame, [entry]);
    else group.push(entry);
  }
  return groups;
}
