/** A running QEMU of Kluis as operations on layers see it: its monitor. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { LayerMerge } from "#drivers/layers/layer-changes.ts";
import type {
  CommitWait,
  Flattening,
  LayerSwitch,
  MachineSession,
  RunningMachine,
  UsedChain,
} from "#drivers/layers/layered-vm.ts";
import type { DiskLayer } from "#drivers/layers/disk-layer.ts";
import { activeLayer, type DiskRecord, type VmRecord } from "#drivers/layers/vm-record.ts";
import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import { nodeName } from "./arguments.ts";
import { addLayerNodes, closeUnusedLayers, planOverlayAction, queryChains } from "./block-graph.ts";
import { flattenDisk } from "./flatten-disk.ts";
import { findMachine } from "./machine.ts";
import { isQmpRefusal, QmpClient } from "#drivers/qmp/qmp-client.ts";
import { cancelJob, dismissJob, queryJobs, waitForJob } from "#drivers/qmp/qmp-jobs.ts";
import { QmpMonitor } from "./qmp-monitor.ts";
import { settlePivots } from "./settle-pivot.ts";
import type { VmContext } from "./vm-context.ts";

/** Id prefix of the jobs that merge layers. */
const MERGE_JOB_PREFIX = "kluis-merge-";
/** A transaction flushes the layers; on a slow disk that takes its time, frozen or not. */
const TRANSACTION_TIMEOUT_MS = 60_000;

/** A running QEMU of Kluis. */
export interface QemuMachine extends RunningMachine {
  readonly identity: ProcessIdentity;
}

/** The running machine of a VM; `undefined` where none runs. */
export async function findQemuMachine(context: VmContext): Promise<QemuMachine | undefined> {
  const { clock, paths } = context;
  const identity = await findMachine(context);
  if (identity === undefined) return undefined;
  return {
    identity,
    agentSocket: paths.agentSocket,
    open: async (signal) =>
      new QmpSession(context, await QmpClient.open(paths.qmpSocket, { clock, signal })),
    openMonitor: async (signal) =>
      new QmpMonitor(context, await QmpClient.open(paths.qmpSocket, { clock, signal })),
  };
}

class QmpSession implements MachineSession {
  readonly #context: VmContext;
  readonly #qmp: QmpClient;

  constructor(context: VmContext, qmp: QmpClient) {
    this.#context = context;
    this.#qmp = qmp;
  }

  async settle(record: VmRecord): Promise<void> {
    await settlePivots(this.#qmp, record);
    for (const job of await queryJobs(this.#qmp)) {
      if (job.id.startsWith(MERGE_JOB_PREFIX)) await cancelJob(this.#qmp, job.id);
    }
  }

  queryChains(disks: readonly DiskRecord[]): Promise<ReadonlyMap<string, UsedChain>> {
    return queryChains(this.#qmp, disks);
  }

  /** Nobody else speaks to its monitor. */
  assertFree(): Promise<void> {
    return Promise.resolve();
  }

  closeUnused(disks: readonly DiskRecord[], chains: ReadonlyMap<string, UsedChain>): Promise<void> {
    return closeUnusedLayers(this.#qmp, disks, chains);
  }

  openLayer(diskName: string, layer: DiskLayer): Promise<void> {
    return addLayerNodes(this.#qmp, diskName, layer);
  }

  async takeInstant(switches: readonly LayerSwitch[]): Promise<void> {
    const actions = switches.map(planOverlayAction);
    try {
      await this.#qmp.transaction(actions, { timeoutMs: TRANSACTION_TIMEOUT_MS });
    } catch (error) {
      if (!isQmpRefusal(error)) throw error;
      throw new KluisError("SnapshotFailed", `Cannot take a snapshot: ${error.message}`, {
        cause: error,
      });
    }
  }

  async commit(disk: DiskRecord, merge: LayerMerge, wait: CommitWait): Promise<void> {
    const qmp = this.#qmp;
    const id = `${MERGE_JOB_PREFIX}${disk.name}`;
    const into = present(
      disk.layers.find((layer) => layer.number === merge.into),
      "a merge is planned on layers of the record",
    );
    await qmp.execute("block-commit", {
      "job-id": id,
      device: nodeName(disk.name, activeLayer(disk).number),
      "top-node": nodeName(disk.name, merge.upTo),
      "base-node": nodeName(disk.name, merge.into),
      "backing-file": into.path,
      "auto-dismiss": false,
    });
    try {
      const job = await waitForJob(qmp, id, [], wait);
      if (job.status === "concluded") await dismissJob(qmp, job);
      else await cancelJob(qmp, id);
    } catch (error) {
      if (wait.signal?.aborted === true) await cancelJob(qmp, id);
      throw error;
    }
  }

  flatten(flattening: Flattening): Promise<VmRecord> {
    return flattenDisk(this.#qmp, this.#context, flattening);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp[Symbol.asyncDispose]();
  }
}
