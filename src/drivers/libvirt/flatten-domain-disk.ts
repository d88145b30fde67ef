/**
 * Flattens a disk of a running domain into its original image. libvirt changes over by itself and
 * without asking, so the guest stands still while the record and the persistent XML follow.
 */
import { fileURLToPath } from "node:url";

import { present } from "#base/assert.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { GuardLink } from "#drivers/guest/guard-link.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { syncFile } from "#drivers/layers/durable-file.ts";
import type { Flattening } from "#drivers/layers/layered-vm.ts";
import { readStoredRecord, writeVmRecord } from "#drivers/layers/vm-record-file.ts";
import { activeLayer, originalLayer, type VmRecord } from "#drivers/layers/vm-record.ts";
import { readProcessIdentity, type ProcessIdentity } from "#drivers/process/process-identity.ts";
import { abortBlockJob, findBlockJob, type BlockJobPlace } from "./block-jobs.ts";
import { disksOf } from "./domain-xml.ts";
import { findDaemon } from "./find-daemon.ts";
import { findMonitor, type FoundMonitor } from "./find-monitor.ts";
import type { LibvirtVm } from "./libvirt-vm.ts";
import { settleByMonitor } from "./settle-by-monitor.ts";
import { attributeOf, childOf, parseXml } from "./xml.ts";

const program = fileURLToPath(new URL("pause-guard.ts", import.meta.url));
const GUARD_TASK_TIMEOUT_MS = 5_000;
/** What the guard is told of the domain, as JSON. */
export interface PausedDomain {
  readonly uri: string;
  readonly uuid: string;
  readonly stateDirectory: string;
  readonly configDirectory: string;
  /** Of QEMU; free where libvirt is dead. */
  readonly monitorPath: string;
  /** libvirt's own process, where it shows. */
  readonly daemon?: ProcessIdentity;
}

/** What virsh calls a commit of the layer that the VM writes. */
const flattenJob = "Active Block Commit";
/** A commit of a whole disk on a slow one. */
const COMMIT_TIMEOUT_MS = 24 * 3_600_000;
const READY_POLL_MS = 200;
/** What is left to copy once the guest stands still. */
const REST_TIMEOUT_MS = 2_000;
const REST_POLL_MS = 20;
/** A libvirt that hangs holds the monitor; nobody gives a guest up that stands still. */
const RESUME_TIMEOUT_MS = 3_600_000;
const RESUME_POLL_MS = 500;

/**
 * See above. Returns the record as last written. Errors: QmpFailed, VmStateWrong where the guest
 * could stand still for ever; the VM goes on as it was.
 */
export async function flattenDomainDisk(vm: LibvirtVm, flattening: Flattening): Promise<VmRecord> {
  const { disk, signal } = flattening;
  const { virsh, domain, clock } = vm;
  const place = { virsh, uuid: domain.uuid, disk: disk.name };
  const monitor = await requireMonitor(vm, activeLayer(disk).path);
  const base = ["--base", disk.describedPath];
  await virsh.run(["blockcommit", domain.uuid, disk.name, "--active", ...base]);
  try {
    const isReady = (): Promise<boolean> => isMirrorReady(vm, disk.name);
    const patience = { timeoutMs: COMMIT_TIMEOUT_MS, pollMs: READY_POLL_MS, clock, signal };
    if (!(await waitUntil(isReady, patience))) throw notReady(disk.name);
  } catch (error) {
    await abortBlockJob(place);
    throw error;
  }
  const guard = await startPauseGuard(vm, place, { monitor, signal });
  try {
    await virsh.run(["suspend", domain.uuid]);
    await changeOver(vm, flattening, place);
    await resume(vm);
  } catch (error) {
    await endPause(vm, flattening, { place, monitorPath: monitor.path });
    throw error;
  } finally {
    await guard.finish();
  }
  await vm.onStep("detach-finished");
  return flattening.flat;
}

/** A guest is only suspended where somebody can let it go on without libvirt. */
async function requireMonitor(vm: LibvirtVm, imagePath: string): Promise<FoundMonitor> {
  const monitor = await findMonitor(vm.domain.uuid, imagePath);
  if (monitor !== undefined) return monitor;
  throw new KluisError(
    "VmStateWrong",
    `Cannot detach VM "${vm.domain.name}" while it runs: QEMU's monitor socket cannot be found, ` +
      "so the guest would stand still should libvirt die; stop the VM first",
  );
}

/** Starts the process that lets the guest go on where we cannot; see pause-guard.ts. */
async function startPauseGuard(
  vm: LibvirtVm,
  place: BlockJobPlace,
  plan: { readonly monitor: FoundMonitor; readonly signal: AbortSignal | undefined },
): Promise<GuardLink> {
  const { directory, clock, host } = vm;
  const { monitor, signal } = plan;
  const daemon = await findDaemon(vm.domain.name, monitor.qemuPid);
  const kluis = present(await readProcessIdentity(process.pid), "this process has an identity");
  const { stateDirectory, configDirectory } = host;
  const target: PausedDomain = {
    uri: place.virsh.uri,
    uuid: place.uuid,
    stateDirectory,
    configDirectory,
    monitorPath: monitor.path,
    ...(daemon === undefined ? {} : { daemon }),
  };
  const config = {
    targetSocket: JSON.stringify(target),
    recordPath: directory.recordPath,
    kluis,
  };
  const { runDirectory } = directory;
  try {
    const guard = await GuardLink.start({ program, runDirectory, config, clock }, signal);
    await guard.ask("prepare", { timeoutMs: GUARD_TASK_TIMEOUT_MS, signal });
    return guard;
  } catch (error) {
    await abortBlockJob(place);
    throw error;
  }
}

/** The guest stands still. */
async function changeOver(
  vm: LibvirtVm,
  flattening: Flattening,
  place: BlockJobPlace,
): Promise<void> {
  const { flat, disk } = flattening;
  const { clock } = vm;
  const isCopied = async (): Promise<boolean> => {
    const job = await findBlockJob(place);
    return job !== undefined && job.doneBytes === job.allBytes;
  };
  const patience = { timeoutMs: REST_TIMEOUT_MS, pollMs: REST_POLL_MS, clock };
  if (!(await waitUntil(isCopied, patience))) throw notReady(disk.name);
  await syncFile(originalLayer(disk).path);
  await vm.onStep("detach-pending");
  await vm.nameLayers(flat);
  await writeVmRecord(vm, flat);
  await vm.onStep("detach-recorded");
  await vm.virsh.run(["blockjob", place.uuid, place.disk, "--pivot"]);
}

/** The guest goes on whatever failed, by QEMU's own monitor where libvirt is dead. Errors: QmpFailed. */
async function endPause(
  vm: LibvirtVm,
  flattening: Flattening,
  target: { readonly place: BlockJobPlace; readonly monitorPath: string },
): Promise<void> {
  const { clock, directory } = vm;
  const { place, monitorPath } = target;
  const readRecord = async (): Promise<VmRecord> =>
    present(await readStoredRecord(directory), "a detach writes the record first");
  let failure: KluisError | undefined;
  const isGoingOn = async (): Promise<boolean> => {
    try {
      if (await isShutOff(vm)) return true;
      await takeBack(vm, flattening, place);
      await settleFlattening(vm, await readRecord());
      return true;
    } catch (error) {
      if (!isKluisError(error)) throw error;
      failure = error;
    }
    try {
      await settleByMonitor(monitorPath, await readRecord(), clock);
      return true;
    } catch (error) {
      // libvirt holds the monitor: it hangs, or it is back.
      if (!isKluisError(error)) throw error;
      return false;
    }
  };
  const patience = { timeoutMs: RESUME_TIMEOUT_MS, pollMs: RESUME_POLL_MS, clock };
  if (!(await waitUntil(isGoingOn, patience))) throw present(failure, "each try has failed");
}

/** While the job has not changed over, the layers are complete: record and XML name them again. */
async function takeBack(
  vm: LibvirtVm,
  flattening: Flattening,
  place: BlockJobPlace,
): Promise<void> {
  if ((await findBlockJob(place)) === undefined) return;
  const layered: VmRecord = { ...flattening.record, work: { kind: "detach" } };
  await writeVmRecord(vm, layered);
  await vm.nameLayers(layered);
  await abortBlockJob(place);
}

/**
 * Ends what a dead run left: a disk whose original is recorded alone changes over, any other stays
 * on its layers; then the guest goes on.
 */
export async function settleFlattening(vm: LibvirtVm, record: VmRecord): Promise<void> {
  const { virsh, domain } = vm;
  // First, because a guest that goes on may be stopped and started again by anybody.
  await vm.nameLayers(record);
  if (await isShutOff(vm)) return;
  for (const disk of record.disks) {
    const place = { virsh, uuid: domain.uuid, disk: disk.name };
    // A copy is another program's.
    if ((await findBlockJob(place))?.type !== flattenJob) continue;
    if (disk.layers.length === 1) {
      await virsh.run(["blockjob", place.uuid, place.disk, "--pivot"]);
    } else {
      await abortBlockJob(place);
    }
  }
  await resume(vm);
}

async function resume(vm: LibvirtVm): Promise<void> {
  const { virsh, domain } = vm;
  if ((await readState(vm)) === "paused") await virsh.run(["resume", domain.uuid]);
}

/** A guest that was ended meanwhile stands still no more, and has no jobs. */
async function isShutOff(vm: LibvirtVm): Promise<boolean> {
  const state = await readState(vm);
  return state === "shut off" || state === "crashed";
}

/** As libvirt calls it. */
async function readState({ virsh, domain }: LibvirtVm): Promise<string> {
  return (await virsh.run(["domstate", domain.uuid])).trim();
}

async function isMirrorReady(vm: LibvirtVm, diskName: string): Promise<boolean> {
  const root = parseXml(await vm.virsh.run(["dumpxml", `--domain=${vm.domain.uuid}`]));
  const disk = disksOf(root).find(
    (each) => attributeOf(childOf(each, "target"), "dev") === diskName,
  );
  const mirror = childOf(disk, "mirror");
  if (mirror === undefined) throw notReady(diskName);
  return attributeOf(mirror, "ready") === "yes";
}

function notReady(diskName: string): KluisError {
  return new KluisError(
    "QmpFailed",
    `Cannot flatten disk "${diskName}": libvirt's job ended or did not get ready`,
  );
}
