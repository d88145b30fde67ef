/** A lab VM under the QEMU driver, for the tests of this folder. */
import { execFileSync } from "node:child_process";
import { readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { readProcessIdentity, type ProcessIdentity } from "#drivers/process/process-identity.ts";
import { planRuntimePaths, type RuntimePaths } from "#drivers/qemu/arguments.ts";
import {
  openQemuHypervisor,
  type QemuHypervisor,
  type QemuHypervisorOptions,
} from "#drivers/qemu/qemu-hypervisor.ts";
import { createAgentExec } from "../../lab/agent-exec.ts";
import { cutPowerOf } from "../../lab/cut-power.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import { createLabVm, type LabVm, type LabVmOptions } from "../../lab/lab-vm.ts";

/** A VM, its driver, and a way into the guest. */
export interface DrivenVm extends AsyncDisposable {
  readonly lab: LabVm;
  readonly vmId: string;
  readonly hypervisor: QemuHypervisor;
  /** Where the driver keeps this VM's record. */
  readonly stateDirectory: string;
  readonly runDirectory: string;
  readonly paths: RuntimePaths;
  /** What the driver was opened with, to open it again. */
  readonly options: QemuHypervisorOptions;
  /** Opens the agent for each call and waits until it answers. */
  readonly exec: GuestExec;
  reopen(onStep?: QemuHypervisorOptions["onStep"]): Promise<QemuHypervisor>;
  /** The QEMU that runs; throws where none does. */
  machine(): Promise<ProcessIdentity>;
  /** Kills QEMU and waits for its end. */
  cutPower(): Promise<void>;
  /** Paths of the layers beside the images, in order of their names. */
  layerFiles(): Promise<readonly string[]>;
}

/** A VM to make. */
export interface DrivenVmOptions extends LabVmOptions {
  /** Name of a disk that is turned into a raw image. */
  readonly rawDisk?: string;
  /** Told the steps of the driver that is opened first. */
  readonly onStep?: NonNullable<QemuHypervisorOptions["onStep"]>;
}

/** Makes a stopped VM. */
export async function createDrivenVm(options: DrivenVmOptions = {}): Promise<DrivenVm> {
  const lab = await createLabVm(options);
  if (options.rawDisk !== undefined) await makeRaw(lab, options.rawDisk);
  const vmId = lab.description.name;
  const stateDirectory = join(lab.directory, "state");
  const runDirectory = join(stateDirectory, "vms", vmId, "run");
  const paths = planRuntimePaths(runDirectory);
  const hypervisorOptions: QemuHypervisorOptions = {
    stateDirectory,
    descriptionPaths: [lab.descriptionPath],
    accelerator: lab.accelerator,
  };
  const machine = async (): Promise<ProcessIdentity> => {
    const identity = await readProcessIdentity(Number(await readFile(paths.pidFile, "utf8")));
    if (identity === undefined) throw new Error("no QEMU runs");
    return identity;
  };
  const { onStep: onFirstStep } = options;
  return {
    lab,
    vmId,
    stateDirectory,
    runDirectory,
    paths,
    options: hypervisorOptions,
    hypervisor: await openQemuHypervisor({
      ...hypervisorOptions,
      ...(onFirstStep === undefined ? {} : { onStep: onFirstStep }),
    }),
    exec: createAgentExec(paths.agentSocket),
    reopen: (onStep) =>
      openQemuHypervisor({ ...hypervisorOptions, ...(onStep === undefined ? {} : { onStep }) }),
    machine,
    cutPower: async () => {
      await cutPowerOf(await machine());
    },
    layerFiles: async () =>
      (await readdir(lab.directory)).filter((name) => name.includes(".kluis-")).sort(),
    [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
  };
}

async function makeRaw(lab: LabVm, name: string): Promise<void> {
  const raw = `${lab.diskPath(name)}.raw`;
  execFileSync("qemu-img", ["convert", "-O", "raw", lab.diskPath(name), raw]);
  const disks = lab.description.disks.map((disk) =>
    disk.name === name ? { ...disk, path: raw, format: "raw" } : disk,
  );
  await writeFile(lab.descriptionPath, JSON.stringify({ ...lab.description, disks }));
}
