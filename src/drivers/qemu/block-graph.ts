/** What QEMU's block graph holds, and adding layers to it and taking them out. */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import { deviceId, fileNodeName, nodeName, planLayerNodes } from "./arguments.ts";
import { toObjects, type QmpAction, type QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { DiskRecord } from "#drivers/layers/vm-record.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import type { LayerSwitch, UsedChain } from "#drivers/layers/layered-vm.ts";

/**
 * What QEMU uses for each disk, by name. Errors: QmpFailed where a disk is not there or stands on
 * something that the record does not know.
 */
export async function queryChains(
  qmp: QmpClient,
  disks: readonly DiskRecord[],
): Promise<ReadonlyMap<string, UsedChain>> {
  const devices = toObjects(await qmp.execute("query-block"), "the block devices of QEMU");
  const nodes = toObjects(
    await qmp.execute("query-named-block-nodes", { flat: true }),
    "the block nodes of QEMU",
  );
  return new Map(disks.map((disk) => [disk.name, toChain(disk, devices, nodes)]));
}

function toChain(
  disk: DiskRecord,
  devices: readonly JsonObject[],
  nodes: readonly JsonObject[],
): UsedChain {
  const owner = `/${deviceId(disk.name)}/`;
  const device = devices.find((entry) => String(entry["qdev"]).includes(owner));
  const inserted = device?.["inserted"];
  if (!isObject(inserted)) throw unknownGraph(disk, "QEMU has no such disk");
  const image = inserted["image"];
  if (!isObject(image)) throw unknownGraph(disk, "QEMU says nothing of its image");
  const numbers: number[] = [];
  let name = String(inserted["node-name"]);
  for (;;) {
    const layer = disk.layers.find((candidate) => nodeName(disk.name, candidate.number) === name);
    if (layer === undefined || numbers.includes(layer.number)) {
      throw unknownGraph(disk, `QEMU uses "${name}", which no record knows`);
    }
    numbers.unshift(layer.number);
    if (layer.number === 0) break;
    const node = nodes.find((entry) => entry["node-name"] === name);
    const below = disk.layers.find((candidate) => candidate.path === node?.["backing_file"]);
    if (below === undefined) throw unknownGraph(disk, `the layer below "${name}" is not known`);
    name = nodeName(disk.name, below.number);
  }
  return { numbers, sizeBytes: Number(image["virtual-size"]) };
}

function unknownGraph(disk: DiskRecord, reason: string): KluisError {
  return new KluisError(
    "QmpFailed",
    `Cannot tell which layers disk "${disk.name}" of the running VM uses: ${reason}`,
    { details: { disk: disk.name } },
  );
}

/** Opens a layer in QEMU, below nothing and above nothing. */
export async function addLayerNodes(
  qmp: QmpClient,
  diskName: string,
  layer: DiskLayer,
): Promise<void> {
  for (const node of planLayerNodes(diskName, layer, { isReadOnly: false, backing: null })) {
    await qmp.execute("blockdev-add", node);
  }
}

/** The action of a transaction that puts a layer on top of another. */
export function planOverlayAction({ diskName, from, to }: LayerSwitch): QmpAction {
  return {
    type: "blockdev-snapshot",
    data: { node: nodeName(diskName, from), overlay: nodeName(diskName, to.number) },
  };
}

/** Closes those layers in QEMU that it holds open and no disk uses; newest first. */
export async function closeUnusedLayers(
  qmp: QmpClient,
  disks: readonly DiskRecord[],
  chains: ReadonlyMap<string, UsedChain>,
): Promise<void> {
  const nodes = toObjects(
    await qmp.execute("query-named-block-nodes", { flat: true }),
    "the block nodes of QEMU",
  );
  const names = new Set(nodes.map((node) => String(node["node-name"])));
  for (const disk of disks) {
    const used = chains.get(disk.name)?.numbers ?? [];
    for (const number of numbersOf(disk.name, names)) {
      if (!used.includes(number)) await closeLayer(qmp, { diskName: disk.name, number, names });
    }
  }
}

function numbersOf(diskName: string, names: ReadonlySet<string>): readonly number[] {
  const pattern = new RegExp(`^(?:disk|file)-${diskName}-(\\d+)$`);
  const numbers = [...names].flatMap((name) => {
    const number = pattern.exec(name)?.[1];
    return number === undefined ? [] : [Number(number)];
  });
  return [...new Set(numbers)].sort((a, b) => b - a);
}

async function closeLayer(
  qmp: QmpClient,
  layer: {
    readonly diskName: string;
    readonly number: number;
    readonly names: ReadonlySet<string>;
  },
): Promise<void> {
  const { diskName, number, names } = layer;
  for (const name of [nodeName(diskName, number), fileNodeName(diskName, number)]) {
    if (names.has(name)) await qmp.execute("blockdev-del", { "node-name": name });
  }
}
