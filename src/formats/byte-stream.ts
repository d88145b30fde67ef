/** Unsigned LEB128 of at most 8 bytes in its shortest form; docs/design/vault-format.md. */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";

const varintBytesMax = 8;

/** Grows as needed and encodes bytes, numbers and varints one after the other. */
export class ByteWriter {
  #bytes: Uint8Array;
  #length = 0;

  constructor(capacityBytes = 256) {
    this.#bytes = new Uint8Array(capacityBytes);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** `value` from 0 to 255. */
  u8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  /** `value` from 0 to 65,535, little-endian. */
  u16(value: number): void {
    this.u8(value & 0xff);
    this.u8(value >>> 8);
  }

  /** A safe integer from 0 to 2^53 - 1. */
  varint(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, "a varint is a safe non-negative integer");
    this.#reserve(varintBytesMax);
    let rest = value;
    while (rest >= 128) {
      this.#bytes[this.#length++] = (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
    this.#bytes[this.#length++] = rest;
  }

  /** Copies `bytes`. */
  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.byteLength);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  /** What was written, in a new array. */
  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  #reserve(moreBytes: number): void {
    const needed = this.#length + moreBytes;
    if (needed <= this.#bytes.byteLength) return;
    const grown = new Uint8Array(Math.max(needed, this.#bytes.byteLength * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** Reads what {@link ByteWriter} wrote; every read past the end or out of form is ObjectCorrupt. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  #at = 0;

  /** @param what Names the text in errors, for example `"map node"`. */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  /** Bytes not read yet. */
  get remaining(): number {
    return this.#bytes.byteLength - this.#at;
  }

  u8(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw this.corrupt("it ends too early");
    this.#at++;
    return value;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  /** A varint of at most `max`. */
  varint(max: number): number {
    let value = 0;
    let scale = 1;
    for (let count = 0; count < varintBytesMax; count++) {
      const byte = this.u8();
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (byte === 0 && count > 0) throw this.corrupt("a number is not in its shortest form");
        if (value > max) throw this.corrupt(`the number ${value} is above ${max}`);
        return value;
      }
      scale *= 128;
    }
    throw this.corrupt("a number is too long");
  }

  /** The next `lengthBytes` bytes, not copied. */
  bytes(lengthBytes: number): Uint8Array {
    if (lengthBytes > this.remaining) throw this.corrupt("it ends too early");
    const start = this.#at;
    this.#at += lengthBytes;
    return this.#bytes.subarray(start, this.#at);
  }

  /** Throws unless everything was read. */
  end(): void {
    if (this.remaining !== 0) throw this.corrupt(`${this.remaining} bytes are left over`);
  }

  /** The error for a text that is out of form. */
  corrupt(reason: string): KluisError {
    return new KluisError("ObjectCorrupt", `Cannot read a ${this.#what}: ${reason}`);
  }
}
