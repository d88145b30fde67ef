import { errorRegistry, type ErrorCode, type ErrorEntry } from "#base/error-codes.ts";

/** Values that describe where an error happened. Never a secret. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** The form of an error that crosses a thread or a process. */
export interface SerializedError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}

const brand = Symbol.for("kluis.error");

/**
 * An operating error: something that may happen to a correct program.
 *
 * Messages read `Cannot <verb> <what>: <reason>`, sentence case, no period, no secret. Drivers
 * translate foreign errors once, at the edge; above that only details are added.
 */
export class KluisError extends Error {
  override readonly name = "KluisError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  readonly [brand] = true;

  constructor(
    code: ErrorCode,
    message: string,
    options: { readonly details?: ErrorDetails; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }

  /** The registry's row for this error. */
  get entry(): ErrorEntry {
    return errorRegistry[this.code];
  }

  toJSON(): SerializedError {
    return { code: this.code, message: this.message, details: this.details };
  }
}

/** Whether `value` is a {@link KluisError}, also one made by another copy of this module. */
export function isKluisError(value: unknown, code?: ErrorCode): value is KluisError {
  const branded = typeof value === "object" && value !== null && brand in value;
  return branded && (code === undefined || (value as KluisError).code === code);
}

/** Rebuilds an error that crossed a thread or a process. */
export function fromSerializedError(error: SerializedError): KluisError {
  return new KluisError(error.code, error.message, { details: error.details });
}

/**
 * Turns anything thrown into a {@link KluisError}; what is unknown becomes `Internal`. Of work that failed
 * and could not be tidied up after either, the work's own error counts and names the other.
 */
export function toKluisError(value: unknown): KluisError {
  if (isKluisError(value)) return value;
  if (value instanceof SuppressedError) {
    const { code, message, details } = toKluisError(value.suppressed);
    const also = `${message}; then also: ${toKluisError(value.error).message}`;
    return new KluisError(code, also, { details, cause: value });
  }
  const message = value instanceof Error ? value.message : String(value);
  return new KluisError("Internal", `Cannot go on: ${message}`, { cause: value });
}
