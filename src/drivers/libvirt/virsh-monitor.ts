/** The monitor of a running domain's QEMU through libvirt, for fleecing. */
import { dirname } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { Monitor } from "#drivers/fleecing/monitor.ts";
import { disksOf } from "./domain-xml.ts";
import { findMonitor } from "./find-monitor.ts";
import type { LibvirtVm } from "./libvirt-vm.ts";
import { runMonitorCommand } from "./monitor-command.ts";
import { attributeOf, childOf, parseXml } from "./xml.ts";

const taint =
  "libvirt marks the VM as tainted (custom-monitor) until it stops: QEMU was spoken to through it";

/**
 * Opens it. libvirt keeps each QEMU a folder of its own for sockets, which nobody else enters; the
 * monitor's socket tells where. Errors: QmpFailed.
 */
export async function openVirshMonitor(vm: LibvirtVm, signal?: AbortSignal): Promise<Monitor> {
  const { virsh, domain } = vm;
  const root = parseXml(await virsh.ask(["dumpxml", `--domain=${domain.uuid}`], { signal }));
  const deviceIds = new Map(
    disksOf(root).map((disk) => [
      attributeOf(childOf(disk, "target"), "dev") ?? "",
      attributeOf(childOf(disk, "alias"), "name") ?? "",
    ]),
  );
  const [image] = domain.disks;
  const seen = image === undefined ? undefined : await findMonitor(domain.uuid, image.path);
  if (seen === undefined) {
    const reason = "its monitor's socket cannot be found: run Kluis on the VM's host, as root";
    throw new KluisError("QmpFailed", `Cannot reach QEMU of VM "${domain.name}": ${reason}`);
  }
  return {
    deviceIds,
    socketFolder: {
      inQemu: dirname(seen.path.replace(/^\/proc\/\d+\/root/, "")),
      here: dirname(seen.path),
    },
    notes: [taint],
    execute: (command, args) =>
      runMonitorCommand(virsh, domain.uuid, {
        execute: command,
        ...(args === undefined ? {} : { arguments: args }),
      }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
