/** What QEMU itself says of a domain's disks, for the one moment in which libvirt does not know. */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { disksOf } from "./domain-xml.ts";
import { toFilePath } from "./image-file-name.ts";
import { runMonitorCommand } from "./monitor-command.ts";
import { attributeOf, childOf, parseXml } from "./xml.ts";
import type { Virsh } from "./virsh.ts";

/** Files of each disk from the top down; see {@link runMonitorCommand}. Errors: QmpFailed. */
export async function queryWrittenChains(
  virsh: Virsh,
  uuid: string,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const root = parseXml(await virsh.ask(["dumpxml", `--domain=${uuid}`]));
  const devices = await runMonitorCommand(virsh, uuid, { execute: "query-block" });
  if (!Array.isArray(devices)) {
    throw new KluisError("QmpFailed", "Cannot read the block devices of QEMU: it is no list");
  }
  const chains = new Map<string, readonly string[]>();
  for (const disk of disksOf(root)) {
    const name = attributeOf(childOf(disk, "target"), "dev") ?? "";
    const alias = attributeOf(childOf(disk, "alias"), "name") ?? "";
    const device = devices.find(
      (entry: unknown): entry is JsonObject =>
        isObject(entry) && String(entry["qdev"]).split("/").includes(alias),
    );
    chains.set(name, toFiles(device?.["inserted"]));
  }
  return chains;
}

function toFiles(inserted: unknown): readonly string[] {
  const files: string[] = [];
  let image: unknown = isObject(inserted) ? inserted["image"] : undefined;
  while (isObject(image)) {
    files.push(toFilePath(String(image["filename"])));
    image = image["backing-image"];
  }
  return files;
}
