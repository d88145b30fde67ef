/** What the address of a libvirt says: where it runs, and where it keeps its XML. */
import { lookup } from "node:dns/promises";
import { networkInterfaces, userInfo } from "node:os";
import { join } from "node:path";

import { KluisError } from "#base/kluis-error.ts";

const systemDirectory = "/etc/libvirt/qemu";
/** Scheme, user, host, port, path. */
const uriPattern =
  /^[a-z]+(?:\+[a-z0-9]+)?:\/\/(?:[^@/?]*@)?(\[[^\]]*\]|[^:/?]*)(?::\d+)?(\/[^?]*)?(?:\?.*)?$/;

/** Folder of the persistent XML, as libvirt's packages have it. */
export function planConfigDirectory(uri: string): string {
  const path = uriPattern.exec(uri)?.[2];
  // That of the user whose libvirt it is, whatever HOME says.
  if (path === "/session") return join(userInfo().homedir, ".config", "libvirt", "qemu");
  return systemDirectory;
}

/**
 * Errors: ArgumentInvalid (after-change) where the address names another host: its disks are not
 * here, and a file of the same path would be taken for one.
 */
export async function assertThisHost(uri: string): Promise<void> {
  const host = (uriPattern.exec(uri)?.[1] ?? "").replace(/^\[(.*)\]$/, "$1");
  if (host === "") return;
  let found: readonly string[];
  try {
    found = (await lookup(host, { all: true })).map(({ address }) => address);
  } catch (error) {
    throw elsewhere(host, `it cannot be found (${(error as Error).message})`);
  }
  const own = new Set(
    Object.values(networkInterfaces()).flatMap((each) => each?.map(({ address }) => address) ?? []),
  );
  // Debian gives a host's own name an address of the loopback network that no interface has.
  const isOwn = (address: string): boolean => own.has(address) || address.startsWith("127.");
  if (!found.some(isOwn)) throw elsewhere(host, "it is another host");
}

function elsewhere(host: string, reason: string): KluisError {
  return new KluisError(
    "ArgumentInvalid",
    `Cannot use the libvirt of "${host}": ${reason}; Kluis runs where the disks are`,
  );
}
