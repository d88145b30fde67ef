/** Every bound of the vault engine; memory of a session follows from them (docs/design/vault-engine.md). */
import { frameBytesMax, windowBytes } from "#formats/geometry.ts";

/** Bytes of a segment: what is read, hashed and stored as one task. */
export const segmentBytes = 16 * windowBytes;
/** Segments in flight for each worker thread. */
export const segmentsPerWorker = 2;
/** Segments of a disk in flight; those of zeros need no buffer. */
export const segmentsPerDisk = 64;
/** Changed pages of a segment: new and old content share its buffer. */
export const segmentPages = segmentBytes / 2 / 4096;
/**
 * Largest plaintext of a frame of page blocks. Their pages lie far apart on the disk, so a restore
 * keeps many such frames open at once; smaller ones keep it in memory (docs/adr/0005-rewrite-rule.md).
 */
export const pageFrameBytesMax = windowBytes;
/** Worker threads at most, whatever the machine has. */
export const workersMax = 16;
/**
 * Bytes of the buffer of a segment: sealed frames go back in it, each larger by its header and tag
 * than what it seals.
 */
export const segmentBufferBytes = segmentBytes + 4096;
/** Packs in memory at once: one that fills while another is put. */
export const packBuffers = 2;
/** A pack takes no further segment when it could grow beyond this; stores take 64 MiB. */
export const packBufferBytes = 60 * 1024 * 1024;
/** Room in a pack's buffer for its footer and trailer: at most 100 bytes for each block. */
export const packFooterBytesMax = 4 * 1024 * 1024;
/** A pack takes no further segment when it could get more blocks: its footer has to fit too. */
export const packEntriesMax = 32 * 1024;
/** No object is larger: stores take no more in one put. */
export const objectBytesMax = 64 * 1024 * 1024;
/**
 * Most plaintext of a container that is opened as a whole: more than the largest index segment or
 * condemned record takes, far less than what 64 MiB of compressed zeros would come to.
 */
export const containerPlainBytesMax = 256 * 1024 * 1024;
/** Packs that are being put at once. */
export const putsInFlight = 4;
/** What may wait in a session before it is made durable. */
export interface FlushLimits {
  /** Entries of packs that are in no index segment yet. */
  readonly entries: number;
  /** Bytes of map nodes. */
  readonly mapBytes: number;
}
/** By default: an index segment for some 16 GiB of windows, map packs for some 100 GiB. */
export const flushLimits: FlushLimits = { entries: 64 * 1024, mapBytes: 24 * 1024 * 1024 };
/** Bytes of decoded frames that a restore keeps. */
export const frameCacheBytes = 80 * frameBytesMax;
/** Frames that a restore fetches ahead for each worker thread. */
export const framesAheadPerWorker = 6;
/** Fetches of neighbouring frames are joined up to this many bytes. */
export const fetchBytesMax = 4 * frameBytesMax;
/** Plaintext of frames that one task of a worker opens. */
export const openBytesMax = 8 * frameBytesMax;
/** Bytes between two frames of a pack that are fetched along: a get of their own takes longer. */
export const fetchGapBytesMax = 64 * 1024;
/** Bytes on their way to targets, of all disks that are restored at once. */
export const restoreBytesInFlight = 384 * windowBytes;
/**
 * Regions of each disk of which those consist: one is read while another is written. They are as large as
 * can be, since in so much of a disk, frames of an increment are neighbours in their pack and come with one fetch.
 */
export const restoreSegmentsPerDisk = 2;
/** A restore starts a thread for each so many bytes of a disk. */
export const restoreBytesPerThread = 64 * windowBytes;
/** Bytes of map frames that are kept decoded. */
export const nodeCacheBytes = 32 * frameBytesMax;
/** Reads of single runs of pages in flight for a disk. */
export const pageReadsInFlight = 64;
/** How long a collection that waits for a session sleeps between two looks. */
export const controlPollMs = 2000;
/** Requests of the locking protocol at once, of those whose order does not matter. */
export const controlRequestsInFlight = 16;
/** How long a session that ends waits for a store that does not answer. */
export const farewellMs = 20_000;
/** How often a session gives a sign of life. */
export const beatMs = 10 * 60 * 1000;
/** Frames of nodes that a collection fetches at once. */
export const markFramesAhead = 8;
/** Ranges of packs that a collection fetches ahead of copying, of {@link fetchBytesMax} each. */
export const copyFetchesAhead = 4;
/** Entries of an index segment that a collection writes in place of others. */
export const mergedSegmentEntries = 256 * 1024;
/** Segments of fewer entries are merged by a collection, once there are {@link smallSegmentsMax}. */
export const smallSegmentEntries = 16 * 1024;
/** Small segments that a collection leaves as they are. */
export const smallSegmentsMax = 16;
/** Packs of fewer bytes are merged by a collection, once there are more than {@link smallPacksMax}. */
export const smallPackBytes = 4 * 1024 * 1024;
/** Small packs that a collection leaves as they are: an eighth of a page of a listing. */
export const smallPacksMax = 128;
/** Small packs that stay where some are merged, so that the next collections need not. */
export const smallPacksLeft = smallPacksMax / 2;
/** Share of unused entries from which a pack is worth copying what it still holds. */
export const repackShareMin = 0.1;
/** Share of the packs' bytes that a collection leaves unused rather than copy. */
export const unusedShareDefault = 0.05;
/** A collection that would free a larger share of the vault wants to be told that this is meant. */
export const breakerShare = 0.5;
/** So little is freed without question. */
export const breakerBytesMin = 256 * 1024 * 1024;
/** Manifests that a collection reads at once. */
export const manifestsAtOnce = 8;
/** A session that gave no sign of life for so long is taken for dead. */
export const silentMsDefault = 2 * 60 * 60 * 1000;
/** Requests about locks of objects at once. */
export const lockRequestsInFlight = 16;
