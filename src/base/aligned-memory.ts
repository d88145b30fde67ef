/**
 * Memory that begins on a page, as direct I/O wants it (open(2), O_DIRECT).
 *
 * JavaScript cannot ask for the address of a buffer; the memory of WebAssembly always begins on a page.
 */

/** Where memory, offsets and lengths of direct I/O lie: multiples of this suit every block size in use. */
export const alignmentBytes = 4096;

/** Of what Node has but its types leave to the DOM's. */
declare const WebAssembly: {
  readonly Memory: new (limits: {
    readonly initial: number;
    readonly maximum: number;
    readonly shared: boolean;
  }) => { readonly buffer: ArrayBufferLike };
};

const wasmPageBytes = 64 * 1024;
const made = new WeakSet<ArrayBufferLike>();

/**
 * Zeroed memory of `sizeBytes` that begins on a page. Where the address space is too small for it,
 * ordinary memory: {@link isAligned} tells.
 *
 * @param sharing `shared`: a message lends it to another thread without a copy; filling it with
 *   zeros is slow. `private`: a message copies it.
 */
export function allocateAligned(sizeBytes: number, sharing: "private" | "shared"): Uint8Array {
  const pages = Math.ceil(sizeBytes / wasmPageBytes);
  try {
    const { buffer } = new WebAssembly.Memory({
      initial: pages,
      maximum: pages,
      shared: sharing === "shared",
    });
    made.add(buffer);
    return new Uint8Array(buffer, 0, sizeBytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return new Uint8Array(sizeBytes);
  }
}

/** Whether direct I/O may move `bytes` to or from `offsetBytes` of a file. */
export function isAligned(bytes: Uint8Array, offsetBytes: number): boolean {
  return (
    made.has(bytes.buffer) &&
    bytes.byteOffset % alignmentBytes === 0 &&
    bytes.byteLength % alignmentBytes === 0 &&
    offsetBytes % alignmentBytes === 0
  );
}
