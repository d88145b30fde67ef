/** Jobs that others run on a domain, during which its layers are left alone. Internal to this folder. */
import { KluisError } from "#base/kluis-error.ts";
import { findBlockJob } from "./block-jobs.ts";
import type { Virsh } from "./virsh.ts";

/**
 * Errors: Busy (backoff) where the domain migrates, is saved or is backed up by libvirt. libvirt would
 * wait 30 s for its end, with the guest frozen.
 */
export async function assertNoDomainJob(virsh: Virsh, uuid: string): Promise<void> {
  const text = await virsh.ask(["domjobinfo", `--domain=${uuid}`]);
  const type = /^Job type:\s+(.*\S)/m.exec(text)?.[1] ?? "None";
  if (type === "None") return;
  const operation = /^Operation:\s+(.*\S)/m.exec(text)?.[1] ?? type;
  throw busy(`libvirt runs a job of another program on the VM (${operation})`);
}

/** Errors: Busy (backoff) where somebody copies, merges or fills an image of the disk. */
export async function assertNoDiskJob(virsh: Virsh, uuid: string, disk: string): Promise<void> {
  if ((await findBlockJob({ virsh, uuid, disk })) === undefined) return;
  throw busy(`another program has a block job on disk "${disk}"`);
}

function busy(reason: string): KluisError {
  return new KluisError(
    "Busy",
    `Cannot work on the layers of the VM: ${reason}; wait for its end, or end it`,
  );
}
