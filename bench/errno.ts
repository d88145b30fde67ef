/** Errors of Node's file calls. */

/** Whether `error` comes from a system call that failed with `code`. */
export function isErrnoException(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
