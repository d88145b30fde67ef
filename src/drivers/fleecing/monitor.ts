/** QEMU's monitor of a running VM, by whichever way a driver reaches it. */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";

/** A session with QEMU. Errors are QmpFailed (backoff), with `refused` in the details where QEMU said no. */
export interface Monitor extends AsyncDisposable {
  execute(command: string, args?: JsonObject, signal?: AbortSignal): Promise<unknown>;
  /** Id of the device that shows a disk to the guest, by the disk's name. */
  readonly deviceIds: ReadonlyMap<string, string>;
  /**
   * Folder in which QEMU can make a socket that nobody else reaches, by its path in QEMU and by its
   * path here: both may live in mount namespaces of their own.
   */
  readonly socketFolder: { readonly inQemu: string; readonly here: string };
  /** What this way of reaching QEMU leaves behind; for people. */
  readonly notes: readonly string[];
}

/** Whether QEMU refused, so that nothing has happened. */
export function isRefusal(error: unknown): error is KluisError {
  return error instanceof KluisError && error.details["refused"] === true;
}

/** Runs a command whose answer is a list of objects. */
export async function executeList(
  monitor: Monitor,
  command: string,
  args?: JsonObject,
): Promise<readonly JsonObject[]> {
  const value = await monitor.execute(command, args);
  if (Array.isArray(value) && value.every(isObject)) return value;
  throw new KluisError("QmpFailed", `Cannot run "${command}" in QEMU: its answer is no list`);
}
