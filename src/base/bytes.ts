/** Small helpers on byte arrays. */

/** Lower-case hexadecimal of `bytes`. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Bytes of a hexadecimal text of even length; `undefined` where it is not one. */
export function fromHex(text: string): Uint8Array | undefined {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) return undefined;
  return new Uint8Array(Buffer.from(text, "hex"));
}

/** Whether both hold the same bytes. Not for secrets: it returns at the first difference. */
export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && asBuffer(a).compare(b) === 0;
}

/** Order of two byte arrays, as by memcmp and then by length. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return asBuffer(a).compare(b);
}

/** Whether every byte is zero. Runs at the speed of memory: one memcmp of `bytes` with itself. */
export function isZero(bytes: Uint8Array): boolean {
  const length = bytes.byteLength;
  if (length === 0) return true;
  if (bytes[0] !== 0) return false;
  return length === 1 || asBuffer(bytes).compare(bytes, 0, length - 1, 1, length) === 0;
}

/** One new array with `parts` one after the other. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  let lengthBytes = 0;
  for (const part of parts) lengthBytes += part.byteLength;
  const whole = new Uint8Array(lengthBytes);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

/** The same bytes as a Buffer, not copied. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
