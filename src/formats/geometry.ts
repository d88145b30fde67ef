/** Sizes fixed by the vault format; docs/design/vault-format.md §1, §4 and §6. */

/** The unit of change: one page. */
export const pageBytes = 4096;
/** Pages in a window. */
export const windowPages = 64;
/** The unit of full reads and checksums. */
export const windowBytes = pageBytes * windowPages;
/** Windows that one leaf of a map covers. */
export const leafWindows = 8;
/** Bytes of a disk that one leaf covers. */
export const leafBytes = leafWindows * windowBytes;
/** Children of an inner node. */
export const nodeChildren = 16;
/** Pages of different regions never share a block. */
export const regionBytes = leafBytes * nodeChildren * nodeChildren;
/** Largest block. */
export const blockBytesMax = windowBytes;
/** Largest plaintext of a frame. */
export const frameBytesMax = 1024 * 1024;
/** A pack is closed once it has reached this size. */
export const packBytesTarget = 32 * 1024 * 1024;
/** Bytes of the id of a block or node. */
export const idBytes = 24;
/** Largest disk: 2^52 bytes, so that every offset is a safe integer. */
export const diskBytesMax = 2 ** 52;
