/**
 * The daemon of libvirt that runs a domain: it may see its folders where nobody else does, so each one's
 * own note of the QEMU that it started is read.
 */
import { readdir, stat } from "node:fs/promises";

import { readProcessIdentity, type ProcessIdentity } from "#drivers/process/process-identity.ts";
import { orUnseen, readOrUnseen } from "#drivers/process/proc-files.ts";

/** As the kernel names them: libvirt in one, and its daemon for QEMU alone. */
const daemonNames: readonly string[] = ["libvirtd", "virtqemud"];

/** The daemon that started this QEMU for the domain of that name; `undefined` where none shows. */
export async function findDaemon(
  domainName: string,
  qemuPid: number,
): Promise<ProcessIdentity | undefined> {
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const folder = `/proc/${pid}`;
    if (!daemonNames.includes((await readOrUnseen(`${folder}/comm`)).trim())) continue;
    const owner = (await orUnseen(stat(folder), undefined))?.uid ?? 0;
    for (const notes of ["/run/libvirt/qemu", `/run/user/${String(owner)}/libvirt/qemu/run`]) {
      const noted = await readOrUnseen(`${folder}/root${notes}/${domainName}.pid`);
      if (Number(noted) === qemuPid) return readProcessIdentity(Number(pid));
    }
  }
  return undefined;
}
