/** What every program that is compared does, and what it is given. */
import type { Cost } from "../measured-process.ts";

/** A disk to back up. */
export interface PeerSource {
  readonly sizeBytes: number;
  /** Raw image, as it is backed up first. */
  readonly before: string;
  /** Raw image after its guest wrote, and the same as a qcow2 overlay on `before`. */
  readonly changed?: { readonly after: string; readonly overlay: string };
}

/** One run of one program on one disk, in a folder of its own. */
export interface PeerRun {
  /** Empty at first; store, cache and keys go here. */
  readonly folder: string;
  /** For files of the measurement. */
  readonly scratch: string;
  readonly source: PeerSource;
  /**
   * Always the same path. Shows `before`, and from the increment on `after`, like an image file
   * that a guest writes.
   */
  readonly currentPath: string;
  readonly signal: AbortSignal;
}

/** What a program does with a vault of many backups. */
export interface Upkeep {
  readonly peer: Peer;
  /** Backs `currentPath` up, in full or by its own comparison with the last backup; not measured. */
  backUpCurrent(run: PeerRun): Promise<void>;
  /** Reads, decrypts and hashes all that was stored; fails where anything is wrong. */
  verify(run: PeerRun): Promise<Cost>;
  /** Deletes all but the newest `keep` backups and frees their space, but for the allowed share. */
  collect(run: PeerRun, keep: number): Promise<Cost>;
}

/** Share of a store that may stay unused, in percent, for every program. */
export const unusedPercent = 5;

/** A program that backs up and restores a disk. Each step is one process, as a user would run it. */
export interface Peer {
  readonly name: string;
  /** Whether it backs up `currentPath`; else it reads the images themselves, and nothing links them. */
  readonly readsCurrentPath: boolean;
  /** Name and version of the program. */
  readVersion(signal: AbortSignal): Promise<string>;
  /** Makes keys and an empty store; not measured. */
  prepare(run: PeerRun): Promise<void>;
  /** Backs the disk up for the first time. */
  backUp(run: PeerRun): Promise<Cost>;
  /** Backs up what changed; absent where the program has no such thing. */
  increment?(run: PeerRun): Promise<Cost>;
  /** Restores the newest backup below `targetFolder`, which is empty. */
  restore(run: PeerRun, targetFolder: string): Promise<Cost>;
  /** The folder or file whose bytes are what was stored. */
  storeOf(run: PeerRun): string;
}
