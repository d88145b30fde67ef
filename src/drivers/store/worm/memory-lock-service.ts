/** A bucket with object lock in the memory of this process; internal to this folder and the one above. */
import { createHash } from "node:crypto";

import { concatBytes } from "#base/bytes.ts";
import {
  type Attempt,
  type BlobRead,
  type BlobVersion,
  type HttpRange,
  type LockService,
  RequestFailure,
  type VersionId,
  type VersionPage,
  type VersionToken,
} from "../cloud/blob-service.ts";
import type { UploadBody } from "../cloud/upload-body.ts";

const pageMax = 1000;

/** One version as it lies in memory. */
export interface MemoryVersion {
  readonly versionId: string;
  /** `undefined` for a delete marker. */
  readonly content: Uint8Array | undefined;
  readonly putMs: number;
  readonly lockedUntilMs: number;
}

/** All versions by key; the newest of a key first. */
export type MemoryVersions = Map<string, readonly MemoryVersion[]>;

/** What such a bucket is built on. */
export interface MemoryLockOptions {
  readonly versions: MemoryVersions;
  readonly nowMs: () => number;
  /** Called before and after each change takes effect. */
  readonly onChange?: (moment: "before" | "after") => void;
}

/** Locks as the COMPLIANCE mode of S3 does: nobody removes a version or shortens a lock before its end. */
export class MemoryLockService implements LockService {
  readonly location = "memory-worm:";
  readonly #options: MemoryLockOptions;
  #puts = 0;

  constructor(options: MemoryLockOptions) {
    this.#options = options;
  }

  async hasLocks(): Promise<boolean> {
    return true;
  }

  async readClock(): Promise<number> {
    return this.#options.nowMs();
  }

  async putLocked(
    key: string,
    { body, untilMs }: { readonly body: UploadBody; readonly untilMs: number },
    { onProgress }: Attempt,
  ): Promise<string> {
    const pieces: Uint8Array[] = [];
    for await (const piece of body.open(onProgress)) pieces.push(piece as Uint8Array);
    const putMs = this.#options.nowMs();
    if (untilMs <= putMs) throw new RequestFailure("argument", "the lock ends in the past");
    const label = `${this.#puts++} ${putMs} ${key}`;
    const versionId = createHash("sha256").update(label).digest("hex");
    const content = concatBytes(pieces);
    this.#change(key, (all) => [{ versionId, content, putMs, lockedUntilMs: untilMs }, ...all]);
    return versionId;
  }

  async getVersion(at: VersionId, range: HttpRange | undefined): Promise<BlobRead> {
    const { content } = this.#find(at);
    if (content === undefined) throw missing();
    const { first, last } = range ?? { first: 0, last: content.byteLength - 1 };
    const bytes = content.slice(first, last + 1);
    return {
      sizeBytes: content.byteLength,
      offsetBytes: first,
      lengthBytes: bytes.byteLength,
      chunks: (async function* () {
        yield bytes;
      })(),
      close: () => {},
    };
  }

  async listVersions(prefix: string, token: VersionToken | undefined): Promise<VersionPage> {
    const all: BlobVersion[] = [];
    for (const key of [...this.#options.versions.keys()].sort()) {
      if (!key.startsWith(prefix)) continue;
      for (const { versionId, content, putMs } of this.#options.versions.get(key) ?? []) {
        const sizeBytes = content?.byteLength ?? 0;
        all.push({ name: key, versionId, sizeBytes, isMarker: content === undefined, putMs });
      }
    }
    const isLast = (one: BlobVersion): boolean =>
      one.name === token?.key && one.versionId === token.versionId;
    const rest = token === undefined ? all : all.slice(all.findIndex(isLast) + 1);
    const versions = rest.slice(0, pageMax);
    const last = versions.at(-1);
    const isEnd = versions.length === rest.length || last === undefined;
    return { versions, next: isEnd ? undefined : { key: last.name, versionId: last.versionId } };
  }

  async lockEnd(at: VersionId): Promise<number> {
    return this.#find(at).lockedUntilMs;
  }

  async extendLock(at: VersionId, untilMs: number): Promise<void> {
    const { lockedUntilMs, versionId } = this.#find(at);
    const isCut = untilMs < lockedUntilMs && lockedUntilMs > this.#options.nowMs();
    if (isCut) throw new RequestFailure("denied", "that shortens a lock");
    this.#change(at.key, (all) =>
      all.map((one) => (one.versionId === versionId ? { ...one, lockedUntilMs: untilMs } : one)),
    );
  }

  async removeVersion(at: VersionId): Promise<void> {
    const all = this.#options.versions.get(at.key) ?? [];
    const found = all.find(({ versionId }) => versionId === at.versionId);
    if (found === undefined) return;
    if (found.lockedUntilMs > this.#options.nowMs()) {
      throw new RequestFailure("locked", "it is locked");
    }
    this.#change(at.key, (now) => now.filter(({ versionId }) => versionId !== at.versionId));
  }

  #find({ key, versionId }: VersionId): MemoryVersion {
    const all = this.#options.versions.get(key) ?? [];
    const found = all.find((one) => one.versionId === versionId);
    if (found === undefined) throw missing();
    return found;
  }

  #change(key: string, to: (all: readonly MemoryVersion[]) => readonly MemoryVersion[]): void {
    const { versions, onChange } = this.#options;
    onChange?.("before");
    const changed = to(versions.get(key) ?? []);
    if (changed.length === 0) versions.delete(key);
    else versions.set(key, changed);
    onChange?.("after");
  }
}

function missing(): RequestFailure {
  return new RequestFailure("missing", "it is not in the store");
}
