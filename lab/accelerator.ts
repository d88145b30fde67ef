/**
 * Whether guests run on KVM here. /dev/kvm may open and still not run a guest (a host that nests
 * virtualisation only halfway), so the answer comes from a boot of the mini guest, once per boot of
 * this machine.
 */
import { constants } from "node:fs";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { QemuRuntime } from "#drivers/qemu/arguments.ts";
import { ensureEntry } from "./cache.ts";
import { describeGuest } from "./guest-kind.ts";
import { startMachine } from "./machine.ts";
import { ensureMiniImage } from "./mini-guest.ts";
import { readTool } from "./tools.ts";

/** How QEMU runs guests. */
export type Accelerator = QemuRuntime["accelerator"];

/** On working KVM the mini guest answers after one to two seconds. */
const probeTimeoutMs = 10_000;
const resultFile = "accelerator";

/** `kvm` where a guest booted on it and its agent answered, else `tcg`. */
export async function ensureAccelerator(): Promise<Accelerator> {
  const recipe = {
    format: 2,
    user: process.getuid?.() ?? 0,
    boot: (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim(),
    qemu: await readTool("qemu-system-x86_64", ["--version"]),
  };
  const directory = await ensureEntry("accelerator", recipe, async (draft) => {
    await writeFile(join(draft, resultFile), await probe());
  });
  return (await readFile(join(directory, resultFile), "utf8")) === "kvm" ? "kvm" : "tcg";
}

/** Whether a boot on KVM is worth trying: the processor can, and this user may. */
async function mayHaveKvm(): Promise<boolean> {
  const processors = await readFile("/proc/cpuinfo", "utf8");
  if (!/^flags\s*:.*\b(?:vmx|svm)\b/mu.test(processors)) return false;
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    // Absent and forbidden are the same answer here: guests are emulated.
    return false;
  }
}

async function probe(): Promise<Accelerator> {
  if (!(await mayHaveKvm())) return "tcg";
  const image = await ensureMiniImage();
  const directory = await mkdtemp(join(tmpdir(), "kluis-lab-probe-"));
  try {
    const disk = join(directory, "vda.qcow2");
    const backing = ["-b", join(image, "root.raw"), "-F", "raw"];
    await readTool("qemu-img", ["create", "-q", "-f", "qcow2", ...backing, disk]);
    const disks = [{ name: "vda", path: disk, format: "qcow2" }] as const;
    const description = describeGuest("mini", { image, name: "probe", disks });
    const signal = AbortSignal.timeout(probeTimeoutMs);
    await using machine = await startMachine(description, {
      directory,
      accelerator: "kvm",
      signal,
    });
    const kvm = (await machine.qmp.request("query-kvm")) as { readonly enabled: boolean };
    return kvm.enabled ? "kvm" : "tcg";
  } catch (error) {
    // Whatever kept the guest from booting on KVM, emulation is the answer; tools are there by now.
    console.error(`lab: no KVM here, guests are emulated (${(error as Error).message})`);
    return "tcg";
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
