/** Every limit of the NBD client in one place. */

/** Requests in flight on one connection unless the caller says otherwise, and at most. */
export const NBD_IN_FLIGHT_DEFAULT = 16;
export const NBD_IN_FLIGHT_MAX = 64;
/**
 * Reads and writes are cut into requests of this size (or the server's largest block, if that is
 * less): the fastest on a local socket when it was measured, with 16 in flight; each is answered soon.
 */
export const NBD_PIECE_BYTES = 256 * 1024;
/** Zeroing and trimming are cut into requests of this size, so that each one is answered soon. */
export const NBD_ZERO_PIECE_BYTES = 128 * 1024 * 1024;
/** Longest range that one block status request asks about; a multiple of every block size. */
export const NBD_STATUS_RANGE_BYTES = 2 ** 32 - 2 ** 16;
/** The buffer that the kernel fills and from which data is copied to callers' buffers. */
export const NBD_RECEIVE_BUFFER_BYTES = 256 * 1024;
/** What a server may send ahead during the handshake before its socket is paused. */
export const NBD_HANDSHAKE_BUFFER_BYTES = 256 * 1024;
/** Meta contexts of one connection. */
export const NBD_META_CONTEXTS_MAX = 16;
/** Pieces out of order that one read may come in. */
export const NBD_READ_FRAGMENTS_MAX = 4096;

/** From the call to the end of the handshake. */
export const NBD_CONNECT_TIMEOUT_MS = 10_000;
/** From sending a request to the end of its reply. */
export const NBD_REQUEST_TIMEOUT_MS = 60_000;
/** Attempts to reach a lost server again before everything waiting fails. */
export const NBD_RECONNECT_ATTEMPTS_MAX = 10;
/** Wait before the first attempt, doubled before each further one up to the second value. */
export const NBD_RECONNECT_DELAY_MS = 100;
export const NBD_RECONNECT_DELAY_MS_MAX = 2_000;
/** How often one request is sent again after a lost connection before it fails. */
export const NBD_RESUBMITS_MAX = 5;
/** How long disposing waits for outstanding replies, and then for the server to hang up. */
export const NBD_DISCONNECT_WAIT_MS = 2_000;
