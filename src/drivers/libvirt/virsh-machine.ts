/** A running domain as operations on its layers see it: libvirt. */
import { KluisError } from "#base/kluis-error.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import type { LayerMerge } from "#drivers/layers/layer-changes.ts";
import type {
  CommitWait,
  Flattening,
  LayerSwitch,
  MachineSession,
  RunningMachine,
  UsedChain,
} from "#drivers/layers/layered-vm.ts";
import { readVirtualSize } from "#drivers/layers/overlay.ts";
import {
  activeLayer,
  isOnDevice,
  originalLayer,
  type DiskRecord,
  type VmRecord,
} from "#drivers/layers/vm-record.ts";
import { parseXml, attributeOf, quoteXml } from "./xml.ts";
import { assertNoDiskJob, assertNoDomainJob } from "./assert-no-other-job.ts";
import { abortBlockJob, findBlockJob, waitForBlockJob } from "./block-jobs.ts";
import { encryptionXml } from "./disk-encryption.ts";
import { parseDomain, type Domain } from "./domain-xml.ts";
import { flattenDomainDisk, settleFlattening } from "./flatten-domain-disk.ts";
import type { LibvirtVm } from "./libvirt-vm.ts";
import { queryWrittenChains } from "./monitor-chains.ts";
import { closeOrphanNodes } from "./orphan-nodes.ts";
import { readDomain } from "./read-domain.ts";
import { openVirshMonitor } from "./virsh-monitor.ts";
import { isVirshRefusal, VIRSH_XML, type Virsh } from "./virsh.ts";

/** What virsh calls a commit between two layers. */
const mergeJob = "Block Commit";
/** A snapshot flushes the layers; on a slow disk that takes its time, frozen or not. */
const SNAPSHOT_TIMEOUT_MS = 60_000;
/** How long libvirt may take to see that a job has ended. */
const JOB_SEEN_TIMEOUT_MS = 10_000;
const JOB_SEEN_POLL_MS = 50;

/** The running machine of a domain; `undefined` where none runs. */
export async function findLibvirtMachine(vm: LibvirtVm): Promise<RunningMachine | undefined> {
  const { virsh, domain } = vm;
  const { uuid } = domain;
  const xml = await virsh.ask(["dumpxml", `--domain=${uuid}`]);
  if (attributeOf(parseXml(xml), "id") === undefined) return undefined;
  const socketPath = parseDomain(xml).agentPath ?? "";
  return {
    agentSocket: planVirshAgent({ uri: virsh.uri, domain: uuid, socketPath }),
    open: () => Promise.resolve(new VirshSession(vm)),
    openMonitor: (signal) => openVirshMonitor(vm, signal),
  };
}

class VirshSession implements MachineSession {
  readonly #vm: LibvirtVm;
  readonly #virsh: Virsh;
  readonly #uuid: string;
  /** A disk of which libvirt does not know what QEMU writes. */
  #lostDisk: string | undefined;
  /** Asked once in a session. */
  #noDomainJob: Promise<void> | undefined;

  constructor(vm: LibvirtVm) {
    this.#vm = vm;
    this.#virsh = vm.virsh;
    this.#uuid = vm.domain.uuid;
  }

  async settle(record: VmRecord): Promise<void> {
    const { work } = record;
    if (work?.kind === "detach") await settleFlattening(this.#vm, record);
    if (work?.kind === "snapshot") await this.#closeOrphans(record.disks, work.layer);
    if (work?.kind !== "merge") return;
    for (const disk of record.disks) {
      const job = { virsh: this.#virsh, uuid: this.#uuid, disk: disk.name };
      // That of a dead run; a copy is another program's.
      if ((await findBlockJob(job))?.type === mergeJob) await abortBlockJob(job);
    }
  }

  async queryChains(disks: readonly DiskRecord[]): Promise<ReadonlyMap<string, UsedChain>> {
    const shown = await this.#readChains();
    // libvirt may have died in the moment of a snapshot, and not know of it: then QEMU is asked.
    const chains = isAsRecorded(disks, shown)
      ? shown
      : await queryWrittenChains(this.#virsh, this.#uuid);
    const isLost = ({ name }: DiskRecord): boolean =>
      shown.get(name)?.[0] !== chains.get(name)?.[0];
    this.#lostDisk = disks.find(isLost)?.name;
    const used = new Map<string, UsedChain>();
    for (const disk of disks) {
      const chain = await toUsedChain(disk, chains.get(disk.name));
      const isBare = isOnDevice(disk) && chain.numbers.at(-1) === 0;
      const sizeBytes = isBare ? await this.#readGuestSize(disk.name) : chain.sizeBytes;
      used.set(disk.name, { ...chain, sizeBytes });
    }
    return used;
  }

  async assertFree(diskNames: readonly string[]): Promise<void> {
    await assertNoDomainJob(this.#virsh, this.#uuid);
    for (const name of diskNames) await assertNoDiskJob(this.#virsh, this.#uuid, name);
  }

  /** libvirt closes what it does not use. */
  closeUnused(): Promise<void> {
    return Promise.resolve();
  }

  /** libvirt opens a layer when it switches to it; what would stop that is looked for before. */
  async openLayer(diskName: string): Promise<void> {
    if (this.#lostDisk !== undefined) throw lostTrack(this.#lostDisk);
    this.#noDomainJob ??= assertNoDomainJob(this.#virsh, this.#uuid);
    await this.#noDomainJob;
    await assertNoDiskJob(this.#virsh, this.#uuid, diskName);
  }

  async takeInstant(switches: readonly LayerSwitch[]): Promise<void> {
    const xml = planSnapshotXml(this.#vm.domain, switches);
    const flags = ["--disk-only", "--reuse-external", "--atomic", "--no-metadata"];
    try {
      const args = ["snapshot-create", `--domain=${this.#uuid}`, VIRSH_XML, ...flags];
      await this.#virsh.run(args, { xml, timeoutMs: SNAPSHOT_TIMEOUT_MS });
    } catch (error) {
      if (!isVirshRefusal(error)) throw error;
      // It may have failed after the switch.
      const shown = await this.#readChains();
      const isTaken = switches.some(({ diskName, to }) => shown.get(diskName)?.[0] === to.path);
      if (isTaken) throw error;
      throw new KluisError("SnapshotFailed", `Cannot take a snapshot: ${error.message}`, {
        cause: error,
      });
    }
  }

  async commit(disk: DiskRecord, merge: LayerMerge, wait: CommitWait): Promise<void> {
    const job = { virsh: this.#virsh, uuid: this.#uuid, disk: disk.name };
    const base = layerPath(disk, merge.into);
    const top = layerPath(disk, merge.upTo);
    const range = ["--base", base, "--top", top];
    await this.#virsh.run(["blockcommit", this.#uuid, disk.name, ...range]);
    const { clock } = this.#vm;
    let isStopped = false;
    try {
      isStopped = !(await waitForBlockJob(job, { clock, ...wait }));
    } finally {
      if (isStopped || wait.signal?.aborted === true) await abortBlockJob(job);
    }
    if (isStopped) return;
    const isGone = await waitUntil(
      async () => (await this.#readChains()).get(disk.name)?.includes(top) === false,
      { timeoutMs: JOB_SEEN_TIMEOUT_MS, pollMs: JOB_SEEN_POLL_MS, clock },
    );
    if (isGone) return;
    throw new KluisError(
      "QmpFailed",
      `Cannot merge layers of disk "${disk.name}": libvirt's job failed; its log says why`,
    );
  }

  flatten(flattening: Flattening): Promise<VmRecord> {
    return flattenDomainDisk(this.#vm, flattening);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  /** A libvirtd that died before the instant has left the new layers open. */
  async #closeOrphans(disks: readonly DiskRecord[], number: number): Promise<void> {
    if (isAsRecorded(disks, await this.#readChains())) return;
    const layers = disks.flatMap((disk) => disk.layers).filter((each) => each.number === number);
    const paths = new Set(layers.map((layer) => layer.path));
    await closeOrphanNodes(this.#virsh, this.#uuid, paths);
  }

  /** As QEMU has it: a device that was made larger meanwhile has another size by itself. */
  async #readGuestSize(diskName: string): Promise<number> {
    const info = await this.#virsh.ask(["domblkinfo", this.#uuid, diskName]);
    const sizeBytes = Number(/^Capacity:\s+(\d+)$/m.exec(info)?.[1]);
    if (Number.isSafeInteger(sizeBytes) && sizeBytes > 0) return sizeBytes;
    throw new KluisError(
      "QmpFailed",
      `Cannot tell the size of disk "${diskName}" of the running VM`,
    );
  }

  /** Files of each disk from the top down, as libvirt knows them. */
  async #readChains(): Promise<ReadonlyMap<string, readonly string[]>> {
    const domain = await readDomain(this.#virsh, ["dumpxml", `--domain=${this.#uuid}`]);
    return new Map(domain.disks.map((disk) => [disk.name, disk.chain]));
  }
}

/** Only a start of the VM tells libvirt what its disks are. */
function lostTrack(diskName: string): KluisError {
  return new KluisError(
    "SnapshotFailed",
    `Cannot take a snapshot: libvirt died in an earlier one and does not know what the VM writes to ` +
      `disk "${diskName}"; nothing is lost, but stop the VM and start it again`,
  );
}

/** The path by which libvirt knows a layer. */
function layerPath(disk: DiskRecord, number: number): string {
  if (number === 0) return disk.describedPath;
  return disk.layers.find((layer) => layer.number === number)?.path ?? disk.describedPath;
}

/** Whether libvirt has every disk on the layer that the record has as the active one. */
function isAsRecorded(
  disks: readonly DiskRecord[],
  shown: ReadonlyMap<string, readonly string[]>,
): boolean {
  return disks.every((disk) => isSameImage(disk, shown.get(disk.name)?.[0]));
}

function isSameImage(disk: DiskRecord, path: string | undefined): boolean {
  const { number, path: image } = activeLayer(disk);
  return path === image || (number === 0 && path === disk.describedPath);
}

async function toUsedChain(
  disk: DiskRecord,
  paths: readonly string[] | undefined,
): Promise<UsedChain> {
  const original = originalLayer(disk);
  const numbers: number[] = [];
  for (const path of paths ?? []) {
    const isOriginal = path === disk.describedPath || path === original.path;
    const layer = isOriginal ? original : disk.layers.find((each) => each.path === path);
    if (layer === undefined) break;
    numbers.unshift(layer.number);
    if (layer.number === 0) {
      const top = disk.layers.find((each) => each.number === numbers.at(-1)) ?? original;
      return { numbers, sizeBytes: await readVirtualSize(top) };
    }
  }
  const [top = "none"] = paths ?? [];
  throw new KluisError(
    "QmpFailed",
    `Cannot tell which layers disk "${disk.name}" of the running VM uses: it stands on "${top}", ` +
      `which no record knows; its XML must name what the VM writes, and names "${disk.describedPath}" ` +
      "or a layer above it",
    { details: { disk: disk.name } },
  );
}

/** Every disk of the domain is named, because libvirt takes those that are not. */
function planSnapshotXml(domain: Domain, switches: readonly LayerSwitch[]): string {
  const names = [...domain.disks, ...domain.refused].map((disk) => disk.name);
  const lines = [...names, ...domain.skipped].map((name) => {
    const change = switches.find((each) => each.diskName === name);
    if (change === undefined) return `<disk name=${quoteXml(name)} snapshot='no'/>`;
    const { path, format, secretId } = change.to;
    const sealed = secretId === undefined ? "" : encryptionXml(secretId);
    return (
      `<disk name=${quoteXml(name)} snapshot='external' type='file'>` +
      `<driver type=${quoteXml(format)}/><source file=${quoteXml(path)}>${sealed}</source></disk>`
    );
  });
  return `<domainsnapshot><disks>${lines.join("")}</disks></domainsnapshot>`;
}
