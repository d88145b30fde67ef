/**
 * Assertions for programmer errors. They are never compiled out: a backup that goes on after a
 * broken invariant is worse than one that stops.
 */

/** Raised where the program contradicts itself; never for bad input or a failing disk. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws {@link AssertionError} unless `condition` holds. `message` states the invariant. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks a branch the type system proves impossible. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value: ${String(value)}`);
}

/** Returns `value`, which the surrounding code has proved to be present. */
export function present<T>(value: T | undefined | null, message: string): T {
  if (value === undefined || value === null) throw new AssertionError(message);
  return value;
}
