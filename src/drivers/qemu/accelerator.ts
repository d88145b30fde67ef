/** Whether QEMU can run guests on KVM here. */
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";

import type { QemuRuntime } from "./arguments.ts";

/**
 * `kvm` where the processor shows virtualisation and /dev/kvm may be opened. The device alone says
 * nothing: hosts that nest virtualisation halfway have it and cannot run a guest.
 */
export async function detectAccelerator(): Promise<QemuRuntime["accelerator"]> {
  const cpu = await readFile("/proc/cpuinfo", "utf8");
  if (!/^flags\s*:.*\b(?:vmx|svm)\b/m.test(cpu)) return "tcg";
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
    return "kvm";
  } catch {
    // Absent or not allowed: emulation works all the same, only slower.
    return "tcg";
  }
}
