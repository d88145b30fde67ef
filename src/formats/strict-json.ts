/**
 * Small plaintext objects of a vault (header, key slots): JSON of which one content has exactly one
 * encoding. A parser reads members, builds the value and compares its encoding with the bytes, so
 * that unknown or repeated members, blanks and other spellings are all refused.
 */
import { KluisError } from "#base/kluis-error.ts";
import { fromHex } from "#base/bytes.ts";

/** Reads the members of one JSON object; whatever is out of form is ObjectCorrupt (never). */
export class JsonMembers {
  readonly #members: Readonly<Record<string, unknown>>;
  readonly #what: string;

  private constructor(members: Readonly<Record<string, unknown>>, what: string) {
    this.#members = members;
    this.#what = what;
  }

  /** @param what Names the object in errors, for example `"key slot"`. */
  static parse(bytes: Uint8Array, limits: { bytesMax: number }, what: string): JsonMembers {
    if (bytes.byteLength > limits.bytesMax) throw corrupt(what, "it is too long");
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    } catch (error) {
      throw corrupt(what, "it is not JSON", error);
    }
    return JsonMembers.#of(value, what);
  }

  static #of(value: unknown, what: string): JsonMembers {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw corrupt(what, "an object is missing");
    }
    return new JsonMembers(value as Record<string, unknown>, what);
  }

  /** The text of a member. */
  text(name: string): string {
    const value = this.#own(name);
    if (typeof value !== "string") throw this.corrupt(`"${name}" is not a text`);
    return value;
  }

  /** An integer from `min` to `max`. */
  integer(name: string, min: number, max: number): number {
    const value = this.#own(name);
    if (!Number.isSafeInteger(value)) throw this.corrupt(`"${name}" is not an integer`);
    const number = value as number;
    if (number < min || number > max) throw this.corrupt(`"${name}" is not from ${min} to ${max}`);
    return number;
  }

  /** A truth value. */
  boolean(name: string): boolean {
    const value = this.#own(name);
    if (typeof value !== "boolean") throw this.corrupt(`"${name}" is not true or false`);
    return value;
  }

  /** Bytes written as lower-case hexadecimal; between `min` and `max` of them. */
  hex(name: string, min: number, max: number = min): Uint8Array {
    const bytes = fromHex(this.text(name));
    if (bytes === undefined) throw this.corrupt(`"${name}" is not hexadecimal`);
    if (bytes.byteLength < min || bytes.byteLength > max) {
      throw this.corrupt(`"${name}" has the wrong length`);
    }
    return bytes;
  }

  /** An object inside this one. */
  members(name: string): JsonMembers {
    return JsonMembers.#of(this.#own(name), this.#what);
  }

  /** A list of at most `max` objects. */
  list(name: string, max: number): readonly JsonMembers[] {
    const value = this.#own(name);
    if (!Array.isArray(value)) throw this.corrupt(`"${name}" is not a list`);
    if (value.length > max) throw this.corrupt(`"${name}" has more than ${max} items`);
    return value.map((item) => JsonMembers.#of(item, this.#what));
  }

  /** The error for an object that is out of form. */
  corrupt(reason: string): KluisError {
    return corrupt(this.#what, reason);
  }

  #own(name: string): unknown {
    return Object.hasOwn(this.#members, name) ? this.#members[name] : undefined;
  }
}

/** The one encoding of `value`: members in the order given, no blanks, and a line end. */
export function encodeJsonLine(value: Readonly<Record<string, unknown>>): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value)}\n`);
}

function corrupt(what: string, reason: string, cause?: unknown): KluisError {
  return new KluisError("ObjectCorrupt", `Cannot read a ${what}: ${reason}`, { cause });
}
