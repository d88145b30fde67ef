/** Block nodes that a libvirtd opened in QEMU for a snapshot and then died, before QEMU used them. */
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { toFilePath } from "./image-file-name.ts";
import { runMonitorCommand, type MonitorCommand } from "./monitor-command.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";

/**
 * Closes what QEMU has open of these images and no disk, image or job uses. libvirt forgets such
 * nodes when it dies, gives their names again, and no snapshot works until the VM stops. QEMU itself
 * refuses to close what is in use. Errors: QmpFailed.
 */
export async function closeOrphanNodes(
  virsh: Virsh,
  uuid: string,
  paths: ReadonlySet<string>,
): Promise<void> {
  const nodes = await runMonitorCommand(virsh, uuid, {
    execute: "query-named-block-nodes",
    arguments: { flat: true },
  });
  if (!Array.isArray(nodes)) return;
  const orphans = nodes.filter(
    (node: unknown): node is JsonObject =>
      isObject(node) && typeof node["file"] === "string" && paths.has(toFilePath(node["file"])),
  );
  // An image is open as long as its format is.
  const isFile = (node: JsonObject): boolean => node["drv"] === "file";
  for (const node of [...orphans.filter((each) => !isFile(each)), ...orphans.filter(isFile)]) {
    const name = String(node["node-name"]);
    const isClosed = await tryCommand(virsh, uuid, {
      execute: "blockdev-del",
      arguments: { "node-name": name },
    });
    // In use: the snapshot was taken.
    if (!isClosed || isFile(node)) continue;
    // Of an encrypted image libvirt gives the name of its secret again, too; of others there is none.
    const id = `${name}-encryption-secret0`;
    await tryCommand(virsh, uuid, { execute: "object-del", arguments: { id } });
  }
}

/** False where QEMU refuses. */
async function tryCommand(virsh: Virsh, uuid: string, command: MonitorCommand): Promise<boolean> {
  try {
    await runMonitorCommand(virsh, uuid, command);
    return true;
  } catch (error) {
    if (!isVirshRefusal(error)) throw error;
    return false;
  }
}
