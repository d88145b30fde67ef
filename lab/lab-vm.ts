/**
 * A VM for one test: a folder with its description and its own disks, ready to start from the
 * template's saved state (under a second) or by a boot. Disposing kills what runs on it and removes
 * the folder.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { planRuntimePaths, type RuntimePaths } from "#drivers/qemu/arguments.ts";
import type { DescribedDisk, VmDescription } from "#drivers/qemu/description.ts";
import type { Accelerator } from "./accelerator.ts";
import { describeGuest, type GuestKind } from "./guest-kind.ts";
import { labFolderPrefix, stopProcessesOf, sweepAbandonedOnce } from "./lab-folder.ts";
import { startMachine, type Machine } from "./machine.ts";
import { ensureTemplate } from "./template.ts";
import { readTool } from "./tools.ts";

/** How the disks of a test hang together with the template. */
export type DiskKind =
  /** An empty qcow2 layer with 4 KiB subclusters over the template's image: made at once. */
  | "overlay"
  /** A full copy as one qcow2 file with 4 KiB subclusters and no backing file. */
  | "qcow2"
  /** A full copy as one sparse raw file. */
  | "raw";

/** What a test asks of its VM. */
export interface LabVmOptions {
  /** Default `mini`. */
  readonly guest?: GuestKind;
  /** Sizes of vdb, vdc … in MiB, an empty ext4 on each; default two of 512. Each list is a template. */
  readonly dataDisksMiB?: readonly number[];
  /** Default `overlay`. */
  readonly disks?: DiskKind;
  /** `warm`: the first start loads the saved state (default). `cold`: every start boots. */
  readonly start?: "warm" | "cold";
  /** Default `lab`. */
  readonly name?: string;
}

/** A VM that is described but not started. */
export interface LabVm extends AsyncDisposable {
  /** Belongs to the test alone; everything that runs on this VM should name it in its arguments. */
  readonly directory: string;
  /** JSON as the QEMU driver reads it. `incoming` holds for the very first start only. */
  readonly descriptionPath: string;
  readonly description: VmDescription;
  /** The only accelerator on which the saved state loads. */
  readonly accelerator: Accelerator;
  /** Where {@link LabVm.start} puts sockets. */
  readonly paths: RuntimePaths;
  /** Path of the image of disk `name`. */
  diskPath(name: string): string;
  /** Starts it without the product's driver and waits for its agent: warm the first time, then by boot. */
  start(signal?: AbortSignal): Promise<Machine>;
}

const defaultDataDisksMiB: readonly number[] = [512, 512];
/** Extended L2 entries divide a cluster of 128 KiB into 32 subclusters of 4 KiB. */
const subclusterLayout = "extended_l2=on,cluster_size=128k";

/** Makes the VM of one test; builds image and template first where the cache has none. */
export async function createLabVm(options: LabVmOptions = {}): Promise<LabVm> {
  const guest = options.guest ?? "mini";
  const template = await ensureTemplate({
    guest,
    dataDisksMiB: options.dataDisksMiB ?? defaultDataDisksMiB,
  });
  await sweepAbandonedOnce();
  const directory = await mkdtemp(join(tmpdir(), `${labFolderPrefix}${String(process.pid)}-`));
  try {
    const kind = options.disks ?? "overlay";
    const disks = await Promise.all(
      template.disks.map((base) => writeTestDisk(base, kind, directory)),
    );
    const isWarm = (options.start ?? "warm") === "warm";
    const description = describeGuest(guest, {
      image: template.image,
      name: options.name ?? "lab",
      disks,
      ...(isWarm ? { incoming: template.incoming } : {}),
    });
    const descriptionPath = join(directory, "vm.json");
    await writeFile(descriptionPath, `${JSON.stringify(description, undefined, 2)}\n`);
    return toLabVm({ directory, descriptionPath, description, accelerator: template.accelerator });
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Makes a disk of a test from one of a template. */
export async function writeTestDisk(
  base: DescribedDisk,
  kind: DiskKind,
  directory: string,
): Promise<DescribedDisk> {
  const format = kind === "raw" ? "raw" : "qcow2";
  const path = join(directory, `${base.name}.${format}`);
  switch (kind) {
    case "overlay": {
      const layout = ["-o", subclusterLayout, "-b", base.path, "-F", base.format];
      await readTool("qemu-img", ["create", "-q", "-f", "qcow2", ...layout, path]);
      break;
    }
    case "qcow2": {
      const layout = ["-O", "qcow2", "-o", subclusterLayout];
      await readTool("qemu-img", ["convert", "-f", base.format, ...layout, base.path, path]);
      break;
    }
    case "raw":
      await readTool("cp", ["--sparse=always", "--no-preserve=mode", base.path, path]);
      break;
  }
  return { name: base.name, path, format };
}

type LabVmParts = Pick<LabVm, "directory" | "descriptionPath" | "description" | "accelerator">;

function toLabVm(parts: LabVmParts): LabVm {
  const { directory, description, accelerator } = parts;
  let { incoming } = description;
  return {
    ...parts,
    paths: planRuntimePaths(directory),
    diskPath: (name) => {
      const disk = description.disks.find((candidate) => candidate.name === name);
      if (disk === undefined) throw new RangeError(`the lab VM has no disk "${name}"`);
      return disk.path;
    },
    start: (signal) => {
      const state = incoming;
      // The saved memory fits the disks only as they are before the first start.
      incoming = undefined;
      return startMachine(description, {
        directory,
        accelerator,
        ...(state === undefined ? {} : { incoming: state }),
        ...(signal === undefined ? {} : { signal }),
      });
    },
    [Symbol.asyncDispose]: async () => {
      await stopProcessesOf(directory);
      await rm(directory, { recursive: true, force: true });
    },
  };
}
