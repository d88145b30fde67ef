/** What errors of the file system mean to a store; internal to this folder. */
import { KluisError } from "#base/kluis-error.ts";
import type { ErrorCode } from "#base/error-codes.ts";

const meanings: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  ENOSPC: ["StoreNoSpace", "the file system is full"],
  EDQUOT: ["StoreNoSpace", "the quota is used up"],
  EFBIG: ["StoreNoSpace", "the file size limit is reached"],
  EACCES: ["StoreDenied", "access is denied"],
  EPERM: ["StoreDenied", "it is not permitted"],
  EROFS: ["StoreDenied", "the file system is read-only"],
  ENOTDIR: ["StoreForeign", "a file lies where a folder of the store should be"],
  EISDIR: ["StoreForeign", "a folder lies where an object should be"],
  ELOOP: ["StoreForeign", "a symbolic link lies where an object should be"],
  ENOENT: ["StoreUnavailable", "a folder of the store is missing"],
  EIO: ["StoreUnavailable", "the device reports an error"],
  ESTALE: ["StoreUnavailable", "the network file system was remounted"],
};

/** Errors of link(2) and fsync(2) that say the file system has no such thing. */
const unsupported = new Set([
  "EPERM",
  "ENOTSUP",
  "EOPNOTSUPP",
  "ENOSYS",
  "EINVAL",
  "EMLINK",
  "EXDEV",
]);

/** The errno name of a file-system error; `undefined` for any other value. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("syscall" in error)) return undefined;
  const { code } = error as NodeJS.ErrnoException;
  return code;
}

/**
 * The store error for whatever was thrown; what is no error of the file system (an abort, a
 * KluisError, a broken assertion) comes back as it is.
 *
 * @param doing Completes "Cannot …", for example `write object "x"`.
 */
export function toStoreError(error: unknown, doing: string): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  const { syscall } = error as NodeJS.ErrnoException;
  const isCommit = syscall === "link" || syscall === "fsync";
  const [code, reason] =
    isCommit && unsupported.has(errno)
      ? (["StoreUnsuitable", "the file system lacks hard links or fsync"] as const)
      : (meanings[errno] ?? (["StoreUnavailable", "the file system failed"] as const));
  return new KluisError(code, `Cannot ${doing}: ${reason} (${errno} from ${String(syscall)})`, {
    cause: error,
    details: { errno },
  });
}

/** Runs `work` and throws what {@link toStoreError} makes of its errors. */
export async function translated<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toStoreError(error, doing);
  }
}
