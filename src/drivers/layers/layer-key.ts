/** The passphrase of an encrypted disk, which only its hypervisor keeps. */
import { KluisError } from "#base/kluis-error.ts";
import type { DiskLayer } from "./disk-layer.ts";
import type { LayeredVm } from "./layered-vm.ts";

/**
 * What opens a layer; `undefined` where it is not encrypted. Asked for anew each time, kept nowhere.
 * Errors: DiskKeyUnusable (after-change).
 */
export async function readLayerKey(
  { readSecret }: Pick<LayeredVm, "readSecret">,
  { path, secretId }: Pick<DiskLayer, "path" | "secretId">,
): Promise<Uint8Array | undefined> {
  if (secretId === undefined) return undefined;
  if (readSecret !== undefined) return await readSecret(secretId);
  const reason = `nobody here keeps secret "${secretId}"`;
  throw new KluisError("DiskKeyUnusable", `Cannot open encrypted image "${path}": ${reason}`);
}
