/**
 * Objects of a vault that are JSON. Small plaintext ones (header, key slots) have exactly one encoding
 * of each content: their parsers read members, build the value and compare its encoding with the bytes,
 * so that unknown or repeated members, blanks and other spellings are all refused.
 */
import { KluisError } from "#base/kluis-error.ts";
import { fromHex } from "#base/bytes.ts";

/** What is read: a kind of object, `"key slot"`, or the name of an object in its store. */
export type JsonSource = string | { readonly objectName: string };

/**
 * Reads the members of one JSON object; whatever is out of form is ObjectCorrupt (never), with the member
 * in its details.
 */
export class JsonMembers {
  readonly #members: Readonly<Record<string, unknown>>;
  readonly #what: JsonSource;

  private constructor(members: Readonly<Record<string, unknown>>, what: JsonSource) {
    this.#members = members;
    this.#what = what;
  }

  /** @param what Names the object in errors. */
  static parse(bytes: Uint8Array, limits: { bytesMax: number }, what: JsonSource): JsonMembers {
    if (bytes.byteLength > limits.bytesMax) throw corrupt(what, "it is too long");
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    } catch (error) {
      throw corrupt(what, "it is not JSON", { cause: error });
    }
    return JsonMembers.#of(value, what);
  }

  static #of(value: unknown, what: JsonSource): JsonMembers {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw corrupt(what, "an object is missing");
    }
    return new JsonMembers(value as Record<string, unknown>, what);
  }

  /** Whether there is such a member. */
  has(name: string): boolean {
    return this.#own(name) !== undefined;
  }

  /** Whether there is such a member, and it is `null`. */
  isNull(name: string): boolean {
    return this.#own(name) === null;
  }

  /** The text of a member, of at most `charactersMax`. */
  text(name: string, charactersMax = Infinity): string {
    const value = this.#own(name);
    if (typeof value !== "string") throw this.wrong(name, "is not a text");
    if (value.length > charactersMax) throw this.wrong(name, "is too long");
    return value;
  }

  /** An integer from `min` to `max`. */
  integer(name: string, min: number, max: number): number {
    const value = this.#own(name);
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      throw this.wrong(name, "is not an integer");
    }
    const number = value as number;
    if (number < min || number > max) throw this.wrong(name, `is not from ${min} to ${max}`);
    return number;
  }

  /** A truth value. */
  boolean(name: string): boolean {
    const value = this.#own(name);
    if (typeof value !== "boolean") throw this.wrong(name, "is not true or false");
    return value;
  }

  /** Bytes written as lower-case hexadecimal; between `min` and `max` of them. */
  hex(name: string, min: number, max: number = min): Uint8Array {
    const bytes = fromHex(this.text(name));
    if (bytes === undefined) throw this.wrong(name, "is not hexadecimal");
    if (bytes.byteLength < min || bytes.byteLength > max) {
      throw this.wrong(name, "has the wrong length");
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
    if (!Array.isArray(value)) throw this.wrong(name, "is not a list");
    if (value.length > max) throw this.wrong(name, `has more than ${max} items`);
    return value.map((item) => JsonMembers.#of(item, this.#what));
  }

  /** The error for an object that is out of form. */
  corrupt(reason: string): KluisError {
    return corrupt(this.#what, reason);
  }

  /** The error for a member that is out of form. */
  wrong(name: string, reason: string): KluisError {
    return corrupt(this.#what, `"${name}" ${reason}`, { member: name });
  }

  #own(name: string): unknown {
    return Object.hasOwn(this.#members, name) ? this.#members[name] : undefined;
  }
}

/** The one encoding of `value`: members in the order given, no blanks, and a line end. */
export function encodeJsonLine(value: Readonly<Record<string, unknown>>): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value)}\n`);
}

function corrupt(
  what: JsonSource,
  reason: string,
  why: { readonly cause?: unknown; readonly member?: string } = {},
): KluisError {
  const { cause, member } = why;
  const subject = typeof what === "string" ? `a ${what}` : `"${what.objectName}"`;
  return new KluisError("ObjectCorrupt", `Cannot read ${subject}: ${reason}`, {
    ...(cause === undefined ? {} : { cause }),
    details: {
      ...(typeof what === "string" ? {} : { object: what.objectName }),
      ...(member === undefined ? {} : { member }),
    },
  });
}
