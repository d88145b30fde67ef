/**
 * Puts the nodes of a fleece into QEMU's block graph, takes the instant, and takes them out again;
 * the graph and the order are those of docs/design/fleecing.md.
 */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import {
  BITMAP_GRANULARITY_BYTES,
  parseChain,
  planBitmap,
  type ChainBitmap,
} from "./bitmap-chain.ts";
import { executeList, isRefusal, type Monitor } from "./monitor.ts";

/** No write of a guest waits longer for its copy; then the snapshot is given up. */
const COPY_TIMEOUT_SECONDS = 10;

/** Kinds of nodes, in the order in which they can be closed. */
const nodeKinds = ["access", "gate", "cbw", "target", "limit", "file"] as const;

/** One disk of a fleece, as it is recorded: what is needed to take it out of the graph. */
export interface FleeceDisk {
  readonly name: string;
  /** The device in QEMU's object tree. */
  readonly devicePath: string;
  /** The node that the device uses without a fleece. */
  readonly node: string;
  /** The file that copies go to; absolute. */
  readonly path: string;
}

/** What QEMU says of a migration that is none, or is over. */
const idleMigrations: ReadonlySet<string> = new Set(["none", "completed", "failed", "cancelled"]);

/** A disk as QEMU has it now. */
export interface FoundDisk {
  readonly devicePath: string;
  readonly node: string;
  readonly sizeBytes: number;
  /** Our bitmaps on the node, oldest first. */
  readonly chain: readonly ChainBitmap[];
}

/** Name of a node; well below QEMU's limit of 31 characters. */
export function fleeceNode(kind: (typeof nodeKinds)[number], diskName: string): string {
  return `kluis-${kind}-${diskName}`;
}

/**
 * Throws Busy (backoff) where somebody copies, merges or moves a disk, or the VM migrates: such a job has
 * filters of its own between a disk and its image, which a fleece would lead the guest past.
 */
export async function assertNoOtherJob(monitor: Monitor): Promise<void> {
  const [job] = await executeList(monitor, "query-block-jobs");
  const migration = await monitor.execute("query-migrate");
  const told = isObject(migration) ? migration["status"] : undefined;
  const status = typeof told === "string" ? told : "none";
  const isMoving = !idleMigrations.has(status);
  if (job === undefined && !isMoving) return;
  const what =
    job === undefined
      ? `the VM migrates (${status})`
      : `another program has a block job on the VM (${String(job["type"])} "${String(job["device"])}")`;
  throw new KluisError("Busy", `Cannot take an instant: ${what}; wait for its end, or end it`);
}

/** Finds the disks. Errors: QmpFailed where one is not there or can be no base of a fleece. */
export async function findDisks(
  monitor: Monitor,
  names: readonly string[],
): Promise<ReadonlyMap<string, FoundDisk>> {
  const devices = await executeList(monitor, "query-block");
  const nodes = await listNodes(monitor);
  return new Map(names.map((name) => [name, findDisk(name, { monitor, devices, nodes })]));
}

function findDisk(
  name: string,
  seen: {
    readonly monitor: Monitor;
    readonly devices: readonly JsonObject[];
    readonly nodes: ReadonlyMap<string, JsonObject>;
  },
): FoundDisk {
  const id = seen.monitor.deviceIds.get(name) ?? "";
  const device = seen.devices.find((entry) => String(entry["qdev"]).split("/").includes(id));
  const inserted = device?.["inserted"];
  const image = isObject(inserted) ? inserted["image"] : undefined;
  if (id === "" || !isObject(inserted) || !isObject(image)) {
    throw failed(`find disk "${name}" in QEMU`, "it has no such device, or nothing is in it");
  }
  const node = String(inserted["node-name"]);
  const sizeBytes = Number(image["virtual-size"]);
  if (node.startsWith("kluis-")) {
    const reason = "a run of another state folder left its filter; stop the VM and start it again";
    throw failed(`back up disk "${name}" without a snapshot`, reason);
  }
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw failed(`find disk "${name}" in QEMU`, "it does not say its size");
  }
  return {
    // The part of a virtio device that does the work takes no other drive; the device does.
    devicePath: String(device?.["qdev"]).replace(/\/virtio-backend$/, ""),
    node,
    sizeBytes,
    chain: parseChain(seen.nodes.get(node)?.["dirty-bitmaps"]),
  };
}

/** What a disk gets. */
export interface FleecePlan extends FleeceDisk {
  readonly found: FoundDisk;
  /** The file is that long and never longer. */
  readonly limitBytes: number;
}

/**
 * Puts the filters in, which do nothing yet, and begins new bitmaps. Errors: SnapshotFailed where
 * QEMU refuses; the caller takes out what is there.
 */
export async function attachFleece(
  monitor: Monitor,
  plans: readonly FleecePlan[],
  snapshotId: string,
): Promise<void> {
  try {
    for (const plan of plans) await attachDisk(monitor, plan);
    await transact(
      monitor,
      plans.map(({ node, found }) => ({
        type: "block-dirty-bitmap-add",
        data: {
          node,
          name: planBitmap(found.chain, { snapshotId, sizeBytes: found.sizeBytes }).name,
          granularity: BITMAP_GRANULARITY_BYTES,
          persistent: false,
        },
      })),
    );
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const isOld = /Invalid parameter|unexpected|Unknown driver|Property/i.test(error.message);
    const needs = isOld ? " (a backup without a snapshot needs QEMU 7.1 or later)" : "";
    throw new KluisError("SnapshotFailed", `Cannot take an instant: ${error.message}${needs}`, {
      cause: error,
    });
  }
}

async function attachDisk(monitor: Monitor, plan: FleecePlan): Promise<void> {
  const { name, node, path, devicePath, limitBytes } = plan;
  const at = (kind: Parameters<typeof fleeceNode>[0]): string => fleeceNode(kind, name);
  const nodes: readonly JsonObject[] = [
    { driver: "file", "node-name": at("file"), filename: path, discard: "unmap" },
    { driver: "raw", "node-name": at("limit"), file: at("file"), size: limitBytes },
    { driver: "qcow2", "node-name": at("target"), file: at("limit"), discard: "unmap" },
    planGate(name, node),
  ];
  for (const each of nodes) await monitor.execute("blockdev-add", each);
  await monitor.execute("qom-set", { path: devicePath, property: "drive", value: at("gate") });
  await monitor.execute("blockdev-add", {
    driver: "copy-before-write",
    "node-name": at("cbw"),
    file: node,
    target: at("target"),
    "on-cbw-error": "break-snapshot",
    "cbw-timeout": COPY_TIMEOUT_SECONDS,
    discard: "unmap",
  });
}

/** A node that passes everything on. Discards pass only where every node on the way lets them. */
function planGate(diskName: string, file: string): JsonObject {
  return { driver: "raw", "node-name": fleeceNode("gate", diskName), file, discard: "unmap" };
}

/** Lets all gates lead through their filters: the instant, of all disks or of none. */
export async function takeFleeceInstant(
  monitor: Monitor,
  disks: readonly FleeceDisk[],
): Promise<void> {
  const options = disks.map(({ name }) => planGate(name, fleeceNode("cbw", name)));
  await monitor.execute("blockdev-reopen", { options });
}

/**
 * Takes out of the graph whatever of a fleece is in it; repeatable. Bitmaps stay. Where somebody has put a
 * layer below the filters meanwhile (`virsh snapshot-create`), the device gets that layer. Errors: QmpFailed;
 * what is left is taken out by the next call.
 */
export async function detachFleece(monitor: Monitor, disks: readonly FleeceDisk[]): Promise<void> {
  const nodes = await listNodes(monitor);
  const isThere = (kind: (typeof nodeKinds)[number], name: string): boolean =>
    nodes.has(fleeceNode(kind, name));
  for (const { name } of disks) {
    if (isThere("access", name)) await closeNode(monitor, fleeceNode("access", name));
  }
  const gates = disks.filter(({ name }) => isThere("gate", name));
  const images = gates.length > 0 ? await findImages(monitor, gates) : new Map<string, string>();
  const imageOf = ({ name, node }: FleeceDisk): string => images.get(name) ?? node;
  if (gates.length > 0) {
    const options = gates.map((disk) => planGate(disk.name, imageOf(disk)));
    await monitor.execute("blockdev-reopen", { options });
  }
  const used = await listUsedNodes(monitor);
  for (const disk of gates) {
    const { name, devicePath } = disk;
    // A device that was unplugged meanwhile, or never put onto its gate, needs nothing.
    if (!used.has(fleeceNode("gate", name))) continue;
    await monitor.execute("qom-set", { path: devicePath, property: "drive", value: imageOf(disk) });
  }
  for (const { name } of disks) {
    for (const kind of nodeKinds.slice(1)) {
      if (isThere(kind, name)) await closeNode(monitor, fleeceNode(kind, name));
    }
  }
}

/**
 * By disk, the node that its filters lead to now. QEMU's stable commands tell nodes but not what leads
 * where; the graph for debugging has been the same since QEMU 4.0.
 */
async function findImages(
  monitor: Monitor,
  disks: readonly FleeceDisk[],
): Promise<ReadonlyMap<string, string>> {
  const graph = await monitor.execute("x-debug-query-block-graph");
  const [nodes, edges] = isObject(graph) ? [graph["nodes"], graph["edges"]] : [];
  const listed = (list: unknown): readonly JsonObject[] =>
    Array.isArray(list) ? list.filter(isObject) : [];
  const names = new Map(listed(nodes).map(({ id, name }) => [id, String(name)]));
  const childOf = new Map(
    listed(edges)
      .filter(({ name }) => name === "file")
      .map(({ parent, child }) => [names.get(parent), names.get(child)]),
  );
  const found = new Map<string, string>();
  for (const { name } of disks) {
    const image = childOf.get(fleeceNode("cbw", name)) ?? childOf.get(fleeceNode("gate", name));
    if (image !== undefined) found.set(name, image);
  }
  return found;
}

/** Names of the nodes that devices stand on. */
async function listUsedNodes(monitor: Monitor): Promise<ReadonlySet<string>> {
  const devices = await executeList(monitor, "query-block");
  return new Set(
    devices.flatMap(({ inserted }) => (isObject(inserted) ? [String(inserted["node-name"])] : [])),
  );
}

async function closeNode(monitor: Monitor, name: string): Promise<void> {
  await monitor.execute("blockdev-del", { "node-name": name });
}

/** Does all actions or none. */
export async function transact(monitor: Monitor, actions: readonly JsonObject[]): Promise<void> {
  if (actions.length > 0) await monitor.execute("transaction", { actions });
}

/** All nodes by name. */
export async function listNodes(monitor: Monitor): Promise<ReadonlyMap<string, JsonObject>> {
  const nodes = await executeList(monitor, "query-named-block-nodes", { flat: true });
  return new Map(nodes.map((node) => [String(node["node-name"]), node]));
}

function failed(what: string, reason: string): KluisError {
  return new KluisError("QmpFailed", `Cannot ${what}: ${reason}`);
}
