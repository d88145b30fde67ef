/**
 * The closed set of messages between the vault and its worker threads.
 *
 * Buffers are transferred, never cloned: whoever holds a message owns its buffers. A segment's
 * buffer goes to the worker with the scan and comes back when its wanted candidates are stored.
 */
import type { PackToCheck } from "#vault/workers/check-pack.ts";
import type { FramesToOpen, OpenedFrames } from "#vault/workers/open-frames.ts";
import type { SerializedError } from "#base/kluis-error.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import type { FrameTicket, SealedFrame } from "#vault/pack/pack-builder.ts";

/** What a worker is started with. */
export interface WorkerStart {
  readonly keys: VaultKeys;
  readonly verify: boolean;
}

/** Hash whole windows: `buffer` holds them one after the other, zero-padded to 256 KiB each. */
export interface ScanWindowsTask {
  readonly kind: "scan-windows";
  readonly task: number;
  readonly buffer: ArrayBuffer;
  readonly windows: number;
  /** Whether ids are wanted too, or only checksums (a comparison). */
  readonly ids: boolean;
}

/**
 * Compare changed pages with their old content and group what differs into blocks.
 *
 * Page `slot` of the segment has its new content at `slot` × 4 KiB and its old content at
 * `oldOffsetBytes` + `slot` × 4 KiB.
 */
export interface ScanPagesTask {
  readonly kind: "scan-pages";
  readonly task: number;
  readonly buffer: ArrayBuffer;
  readonly oldOffsetBytes: number;
  /** For each slot the page's number in its window, 0 to 63. */
  readonly pageInWindow: Uint8Array;
  /** For each window of the segment the first slot that belongs to it, ascending from 0. */
  readonly windowStarts: Uint32Array;
  /** For each window of the segment its region; a block never spans two. */
  readonly windowRegions: Uint32Array;
}

/**
 * Seal the wanted candidates of a scanned segment, and give its buffer back.
 *
 * `wanted` has one byte per candidate; the ticket has a frame number for each wanted one.
 */
export interface StoreTask {
  readonly kind: "store";
  readonly task: number;
  readonly wanted: Uint8Array;
  readonly ticket: FrameTicket;
}

/** Give the buffer of a scanned segment back; nothing of it is wanted. */
export interface ReleaseTask {
  readonly kind: "release";
  readonly task: number;
}

/** Open frames that were fetched from a pack, and check the ids of the blocks that are needed. */
export interface OpenFramesTask extends FramesToOpen {
  readonly kind: "open-frames";
  readonly task: number;
}

/** Check a whole pack. */
export interface CheckPackTask extends PackToCheck {
  readonly kind: "check-pack";
  readonly task: number;
}

/** Compute the name of a finished object. */
export interface NameTask {
  readonly kind: "name";
  readonly task: number;
  /** In shared memory, which does not change until the answer. */
  readonly bytes: Uint8Array;
}

/** Everything a worker may be told. */
export type WorkerTask =
  | ScanWindowsTask
  | ScanPagesTask
  | StoreTask
  | ReleaseTask
  | OpenFramesTask
  | CheckPackTask
  | NameTask;

/** Answer to {@link ScanWindowsTask}; candidate n is window n, unless it is zero. */
export interface WindowScan {
  readonly kind: "windows-scanned";
  readonly task: number;
  /** 1 where the window is all zeros. */
  readonly zero: Uint8Array;
  /** 24 bytes a window; empty where ids were not asked for. */
  readonly ids: Uint8Array;
  /** 16 bytes a window. */
  readonly checksums: Uint8Array;
}

/** What became of a page. */
export const pageStates = { same: 0, zero: 1, stored: 2 } as const;

/** Answer to {@link ScanPagesTask}. */
export interface PageScan {
  readonly kind: "pages-scanned";
  readonly task: number;
  /** One of {@link pageStates} for each slot. */
  readonly states: Uint8Array;
  /** For each stored slot its block. */
  readonly blocks: Uint32Array;
  /** For each stored slot its page in that block. */
  readonly pageInBlock: Uint8Array;
  /** 24 bytes a block. */
  readonly blockIds: Uint8Array;
  /** Bytes of each block. */
  readonly blockBytes: Uint32Array;
  /** What to XOR into each window's checksum, 16 bytes a window. */
  readonly checksumDeltas: Uint8Array;
}

/** Everything a worker may answer. */
export type WorkerAnswer =
  | WindowScan
  | PageScan
  | {
      readonly kind: "stored";
      readonly task: number;
      /** The segment's buffer; the sealed frames lie at its start, one after the other. */
      readonly buffer: ArrayBuffer;
      readonly frames: readonly SealedFrame[];
    }
  | ({ readonly kind: "frames-opened"; readonly task: number } & OpenedFrames)
  | { readonly kind: "pack-checked"; readonly task: number; readonly isSound: boolean }
  | { readonly kind: "named"; readonly task: number; readonly name: Uint8Array }
  | { readonly kind: "failed"; readonly task: number; readonly error: SerializedError };

/** An answer with the buffers that go along. */
export interface Posted {
  readonly answer: WorkerAnswer;
  readonly transfer: readonly ArrayBuffer[];
}
