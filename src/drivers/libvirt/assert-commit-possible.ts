/** Whether layers could be merged on this host later, asked before the first one is made. */
import { access, constants, open } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import { isBlockDevice, isDeviceReadOnly } from "#drivers/disk/block-device.ts";
import type { Domain } from "./domain-xml.ts";
import type { Virsh } from "./virsh.ts";
import { attributeOf, childOf, parseXml } from "./xml.ts";

/** From this version on libvirt gives the profile of a VM the right to write backing files. */
const appArmorFrom = { major: 12, minor: 1 } as const;

/** A domain and its libvirt. */
interface DomainAt {
  readonly virsh: Virsh;
  readonly domain: Domain & { readonly uuid: string };
}

/**
 * Errors: SnapshotFailed where the original images cannot be opened for writing, or where AppArmor
 * would forbid it to QEMU: layers that cannot be merged would grow for ever.
 */
export async function assertCommitPossible(
  vm: DomainAt,
  diskNames: readonly string[],
): Promise<void> {
  for (const { name, path } of vm.domain.disks) {
    if (!diskNames.includes(name)) continue;
    const reason = await whyNotWritable(path);
    if (reason !== undefined) throw impossible(vm, `disk "${name}": ${reason}`);
  }
  const { virsh, domain } = vm;
  const host = childOf(parseXml(await virsh.ask(["capabilities"])), "host");
  const models = host?.children.filter((child) => child.name === "secmodel") ?? [];
  if (!models.some((model) => childOf(model, "model")?.text === "apparmor")) return;
  const root = parseXml(await virsh.ask(["dumpxml", "--inactive", `--domain=${domain.uuid}`]));
  if (attributeOf(childOf(root, "seclabel"), "type") === "none") return;
  const version = await virsh.ask(["version", "--daemon"]);
  const [, major = "0", minor = "0"] = /daemon:\s+(\d+)\.(\d+)/.exec(version) ?? [];
  const isOld =
    Number(major) < appArmorFrom.major ||
    (Number(major) === appArmorFrom.major && Number(minor) < appArmorFrom.minor);
  if (isOld) {
    throw impossible(
      vm,
      `AppArmor of libvirt ${major}.${minor} forbids QEMU to write backing files`,
    );
  }
}

/** Opening changes nothing, not even the times of the file. */
async function whyNotWritable(path: string): Promise<string | undefined> {
  try {
    if (await isBlockDevice(path)) return await whyNotWritableDevice(path);
    await (await open(path, "r+")).close();
    return undefined;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // An image that is not there has an error of its own.
    return code === "ENOENT" ? undefined : message;
  }
}

/** Not opened: udev looks at a device anew when somebody closes it who might have written. */
async function whyNotWritableDevice(path: string): Promise<string | undefined> {
  await access(path, constants.W_OK);
  return (await isDeviceReadOnly(path)) ? `the device "${path}" is read-only` : undefined;
}

function impossible(vm: DomainAt, reason: string): KluisError {
  return new KluisError(
    "SnapshotFailed",
    `Cannot take a snapshot of VM "${vm.domain.name}": its layers could not be merged on this ` +
      `host later: ${reason}; a backup with --no-snapshot-tier needs none`,
  );
}
