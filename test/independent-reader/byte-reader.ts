/**
 * Reads the fields of docs/design/vault-format.md §1 from bytes, never past their end. Part of the
 * independent reader: written from that page alone, it shares no code with src/.
 */

/** What the independent reader throws for bytes or names that the document does not allow. */
export class FormatViolation extends Error {}

/** Fails with what the document demands where `ok` is false. */
export function demand(ok: boolean, what: string): asserts ok {
  if (!ok) throw new FormatViolation(what);
}

/** A place in bytes. */
export class ByteReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  bytes(length: number): Buffer {
    demand(length <= this.#bytes.length - this.#at, "bytes end inside of a field");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  u8(): number {
    return this.bytes(1).readUInt8();
  }

  u16(): number {
    return this.bytes(2).readUInt16LE();
  }

  /** Unsigned LEB128 of at most 8 bytes, in its shortest form (§1). */
  varint(): number {
    let value = 0n;
    for (let place = 0n; place < 8n; place++) {
      const byte = this.u8();
      value |= BigInt(byte & 127) << (7n * place);
      if (byte < 128) {
        demand(byte !== 0 || place === 0n, "varint is not in its shortest form");
        demand(value <= BigInt(Number.MAX_SAFE_INTEGER), "varint above 2^53");
        return Number(value);
      }
    }
    throw new FormatViolation("varint of more than 8 bytes");
  }
}
