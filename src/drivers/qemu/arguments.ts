/**
 * The command line of QEMU for a described VM. Pure: it plans, somebody else starts it.
 *
 * Machine type, CPU model, device order, ids and PCI addresses are pinned, so that a saved machine
 * state fits every later start of the same description, and so that a QEMU upgrade changes nothing
 * that the guest sees. Every disk layer has a node name, so that snapshots and commits can name it.
 */
import { join } from "node:path";

import { assert, present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import type { DescribedDisk, VmDescription } from "#drivers/qemu/description.ts";

/** Oldest machine type that every supported QEMU (6.2 of Ubuntu 22.04 and later) still offers. */
export const machineType = "pc-q35-6.2";

/** x86-64-v2 and the two extensions that make early randomness and encryption fast. */
export const cpuModel = "qemu64,+cx16,+lahf-lm,+popcnt,+ssse3,+sse4.1,+sse4.2,+aes,+rdrand";

/** QEMU cuts node names at this length; ours are checked to be shorter. */
const nodeNameCharsMax = 31;

/** `sun_path` of a Unix socket less the closing NUL. */
const socketPathBytesMax = 107;

/** First PCI slot of the disks; those below are for the fixed devices. */
const firstDiskSlot = 0x8;

/** Where the running machine has its sockets and files. */
export interface RuntimePaths {
  readonly qmpSocket: string;
  readonly agentSocket: string;
  readonly ackSocket: string;
  /** A second monitor, for whoever must act while the first one is taken; none without. */
  readonly rescueSocket?: string;
  readonly pidFile: string;
}

/** What a start adds to the description. */
export interface QemuRuntime {
  readonly paths: RuntimePaths;
  /**
   * Layers of each disk by name, oldest first. A disk that is not named has one layer, the image
   * of the description.
   */
  readonly layers?: ReadonlyMap<string, readonly DiskLayer[]>;
  /** `kvm` falls back to emulation where KVM cannot be opened. */
  readonly accelerator: "kvm" | "tcg";
  /** Detach from the starter once the machine runs. */
  readonly daemonize: boolean;
  /** Loads this saved state instead of booting; overrides nothing in the description by itself. */
  readonly incoming?: string;
  /** Guest console to this file; without it, to a 64 KiB ring in QEMU's memory. */
  readonly consolePath?: string;
}

/** Sockets and pid file of a machine in `directory`. */
export function planRuntimePaths(directory: string): RuntimePaths {
  return {
    qmpSocket: join(directory, "qmp.sock"),
    agentSocket: join(directory, "agent.sock"),
    ackSocket: join(directory, "ack.sock"),
    rescueSocket: join(directory, "rescue.sock"),
    pidFile: join(directory, "qemu.pid"),
  };
}

/** Node name of the format layer `number` of a disk: what snapshots and commits name. */
export function nodeName(diskName: string, number: number): string {
  return checkNodeName(`disk-${diskName}-${number}`);
}

/** Node name of the file below {@link nodeName}. */
export function fileNodeName(diskName: string, number: number): string {
  return checkNodeName(`file-${diskName}-${number}`);
}

/** Id of the device that shows a disk to the guest. */
export function deviceId(diskName: string): string {
  return `virtio-${diskName}`;
}

/**
 * Arguments for `qemu-system-x86_64`, without the program's name.
 *
 * @throws KluisError ConfigInvalid (after-change) where a socket path is too long for the system.
 */
export function planQemuArguments(description: VmDescription, runtime: QemuRuntime): string[] {
  return [
    ...planMachine(description, runtime),
    ...planBoot(description),
    ...planChannels(description, runtime),
    ...description.disks.flatMap((disk, index) => planDisk(disk, index, runtime)),
    ...description.extraArguments,
    ...(runtime.incoming === undefined ? [] : pair("-incoming", runtime.incoming)),
    ...(runtime.daemonize ? ["-daemonize"] : []),
  ];
}

function planMachine(description: VmDescription, runtime: QemuRuntime): string[] {
  const accelerators =
    runtime.accelerator === "kvm"
      ? [...pair("-accel", "kvm"), ...pair("-accel", "tcg")]
      : pair("-accel", "tcg");
  return [
    ...pair("-name", `guest=${description.name},debug-threads=on`),
    "-nodefaults",
    "-no-user-config",
    ...pair("-display", "none"),
    ...pair("-nic", "none"),
    ...pair("-machine", `${machineType},graphics=off`),
    ...pair("-cpu", cpuModel),
    ...accelerators,
    ...pair("-m", `${description.memoryMiB}M`),
    ...pair("-smp", `${description.cpus},sockets=1`),
    ...pair("-rtc", "base=utc"),
    ...pair("-pidfile", runtime.paths.pidFile),
  ];
}

function planBoot(description: VmDescription): string[] {
  const { kernel, initrd, append } = description;
  return [
    ...(kernel === undefined ? [] : pair("-kernel", kernel)),
    ...(initrd === undefined ? [] : pair("-initrd", initrd)),
    ...(append === undefined ? [] : pair("-append", append)),
  ];
}

function planChannels(description: VmDescription, runtime: QemuRuntime): string[] {
  const { paths } = runtime;
  const console =
    runtime.consolePath === undefined
      ? "ringbuf,id=console0,size=64K"
      : `file,id=console0,path=${escapeComma(runtime.consolePath)}`;
  const port = "virtserialport,bus=channels.0";
  const channels = [
    ...pair("-chardev", planSocket("qmp0", paths.qmpSocket)),
    ...pair("-mon", "chardev=qmp0,mode=control"),
    ...planRescueMonitor(paths),
    ...pair("-chardev", console),
    ...pair("-device", "isa-serial,id=serial0,chardev=console0"),
    ...pair("-device", "virtio-serial-pci,id=channels,bus=pcie.0,addr=0x4,max_ports=4"),
    ...pair("-chardev", planSocket("agent0", paths.agentSocket)),
    ...pair("-device", `${port},id=agent,nr=1,chardev=agent0,name=org.qemu.guest_agent.0`),
  ];
  if (!description.ackChannel) return channels;
  return [
    ...channels,
    ...pair("-chardev", planSocket("ack0", paths.ackSocket)),
    ...pair("-device", `${port},id=ack,nr=2,chardev=ack0,name=kluis.lab.ack`),
  ];
}

function planRescueMonitor(paths: RuntimePaths): string[] {
  if (paths.rescueSocket === undefined) return [];
  return [
    ...pair("-chardev", planSocket("qmp1", paths.rescueSocket)),
    ...pair("-mon", "chardev=qmp1,mode=control"),
  ];
}

function planSocket(id: string, path: string): string {
  if (Buffer.byteLength(path) > socketPathBytesMax) {
    throw new KluisError(
      "ConfigInvalid",
      `Cannot start a VM with its sockets at "${path}": the path is longer than ${socketPathBytesMax} bytes`,
      { details: { path } },
    );
  }
  return `socket,id=${id},path=${escapeComma(path)},server=on,wait=off`;
}

function planDisk(disk: DescribedDisk, index: number, runtime: QemuRuntime): string[] {
  const layers = runtime.layers?.get(disk.name) ?? [
    { number: 0, path: disk.path, format: disk.format },
  ];
  assert(layers.length > 0, "a disk has at least one layer");
  const nodes = layers.flatMap((layer, at) => {
    const below = layers[at - 1];
    const isTop = at === layers.length - 1;
    return planLayerNodes(disk.name, layer, {
      isReadOnly: !isTop,
      ...(below === undefined ? {} : { backing: nodeName(disk.name, below.number) }),
    }).flatMap((node) => pair("-blockdev", JSON.stringify(node)));
  });
  const top = present(layers.at(-1), "a disk has a top layer");
  const device = [
    `virtio-blk-pci,id=${deviceId(disk.name)},bus=pcie.0`,
    `addr=0x${(firstDiskSlot + index).toString(16)}`,
    `drive=${nodeName(disk.name, top.number)},serial=${disk.name}`,
    // A full host stops the VM instead of giving the guest write errors; it goes on once there is room.
    "werror=enospc,rerror=report",
    `bootindex=${index + 1}`,
  ].join(",");
  return [...nodes, ...pair("-device", device)];
}

/** How a layer sits in its chain. */
export interface LayerPlace {
  readonly isReadOnly: boolean;
  /** Node name of the layer below; absent: what the image's own header says. */
  readonly backing?: string | null;
}

/** A node of QEMU's block graph as `blockdev-add` and `-blockdev` take it. */
export type BlockNode = Readonly<Record<string, unknown>>;

/**
 * The two block nodes of one layer, file first.
 *
 * Flushes of the guest reach the disk (`no-flush` off: a snapshot syncs its base only then), reads
 * and writes go through the host's page cache (frozen layers are read back from it, and every file
 * system allows it), and discards and written zeros free space in the layer. The file is opened for
 * writing only while the layer is written (`auto-read-only`), so that a commit can write a frozen
 * one and others can read it until then.
 */
export function planLayerNodes(diskName: string, layer: DiskLayer, place: LayerPlace): BlockNode[] {
  const common = { discard: "unmap", cache: { direct: false, "no-flush": false } };
  const file = fileNodeName(diskName, layer.number);
  return [
    {
      driver: "file",
      "node-name": file,
      filename: layer.path,
      aio: "threads",
      "auto-read-only": true,
      ...common,
    },
    {
      driver: layer.format,
      "node-name": nodeName(diskName, layer.number),
      file,
      "read-only": place.isReadOnly,
      "detect-zeroes": "unmap",
      ...common,
      ...(place.backing === undefined ? {} : { backing: place.backing }),
    },
  ];
}

/** One option and its value: keeps both on one line of this file. */
function pair(option: string, value: string): string[] {
  return [option, value];
}

function checkNodeName(name: string): string {
  assert(name.length <= nodeNameCharsMax, "node names fit QEMU's limit");
  return name;
}

function escapeComma(text: string): string {
  return text.replaceAll(",", ",,");
}
