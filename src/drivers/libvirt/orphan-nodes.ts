/** Block nodes that a libvirtd opened in QEMU for a snapshot and then died, before QEMU used them. */
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { runMonitorCommand } from "./monitor-command.ts";
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
      isObject(node) && typeof node["file"] === "string" && paths.has(toPath(node["file"])),
  );
  // An image is open as long as its format is.
  const isFile = (node: JsonObject): boolean => node["drv"] === "file";
  for (const node of [...orphans.filter((each) => !isFile(each)), ...orphans.filter(isFile)]) {
    try {
      const args = { "node-name": String(node["node-name"]) };
      await runMonitorCommand(virsh, uuid, { execute: "blockdev-del", arguments: args });
    } catch (error) {
      // In use: the snapshot was taken.
      if (!isVirshRefusal(error)) throw error;
    }
  }
}

/** The file behind a name of QEMU's, which is JSON where the image was opened by more than a path. */
function toPath(name: string): string {
  const json = "json:";
  let image: unknown = name.startsWith(json) ? JSON.parse(name.slice(json.length)) : undefined;
  while (isObject(image)) {
    if (typeof image["filename"] === "string") return image["filename"];
    image = image["file"];
  }
  return name;
}
