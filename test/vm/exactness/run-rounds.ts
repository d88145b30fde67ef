/**
 * The rounds of an exactness run: the guest writes, something happens to it, a backup is taken, and the
 * newest recovery point is restored and compared, byte for byte, with a copy of the frozen layers by
 * qemu-img and, on the raw disk, with what a second run of the same jobs on the host says.
 */
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { pageBytes } from "#formats/geometry.ts";
import { expireSnapshots } from "#protect/expire-snapshots.ts";
import { dayMs } from "#protect/plan-expiry.ts";
import { applyRestore, fromVault, prepareRestore } from "#protect/restore.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import { createPrng } from "#testing/seed.ts";
import { storedBytesOf } from "../../../bench/stored-bytes.ts";
import { runInGuest, startInGuest } from "../../../lab/guest.ts";
import { protectVm, type Protection } from "../protected-vm.ts";
import { DiskModel, planFio } from "./disk-model.ts";
import { createExactVm, type DriverName, type ExactVm } from "./exact-vm.ts";
import { copyFrozenDisk, findFilePages } from "./frozen-copy.ts";
import {
  faultKindsOf,
  planRounds,
  type FaultKind,
  type PlannedFault,
  type PlannedRound,
  type PlannedWrite,
} from "./plan-rounds.ts";

const dataDiskMiB = 64;
/** Without a file system, so that every byte of it is one that a job wrote. */
const rawDisk = "vdb";
const rawDevice = `/dev/${rawDisk}`;
const diskNames = ["vda", rawDisk, "vdc"] as const;
/** Writes all the time on a disk with a file system. */
const busyScript = `while :; do
  dd if=/dev/urandom of=/data/vdc/busy bs=4k count=8 seek=$((RANDOM % 128)) conv=notrunc
  sync; usleep 150000
done`;
/** Days by which every snapshot that may expire has expired. */
const farDays = 3;

/** What a run came to. */
export interface ExactnessFigures {
  readonly rounds: number;
  readonly faults: ReadonlyMap<FaultKind, number>;
  /** Bytes that the jobs wrote and that were durable. */
  readonly writtenBytes: number;
  /** What was not equal, for people. */
  readonly mismatches: readonly string[];
  /** Rounds in which every disk of every backup was tracked. */
  readonly trackedRounds: number;
  /** The largest growth of the store in a tracked round, by the pages written or discarded in it. */
  readonly worstGrowth: number;
  /** Disks that were compared by checksum though no snapshot had been deleted, with the reason. */
  readonly surprises: readonly string[];
  /** Backups that libvirt refused, having lost track of a QEMU, until the VM was started again. */
  readonly refusals: number;
}

/** How a run is done. */
export interface ExactnessOptions {
  readonly driver: DriverName;
  readonly rounds: number;
  readonly seed: number;
  readonly log: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** Runs the rounds on one VM. Errors: whatever fails that no fault explains. */
export async function runRounds(options: ExactnessOptions): Promise<ExactnessFigures> {
  const { driver, rounds, seed, log, signal } = options;
  await using vm = await createExactVm(driver, dataDiskMiB);
  await using protection = await protectVm(vm);
  const run = await ExactnessRun.open(vm, protection);
  for (const round of planRounds(rounds, faultKindsOf(driver), createPrng(seed))) {
    signal?.throwIfAborted();
    log(await run.apply(round));
  }
  return run.figures;
}

/** One VM and what has become of it. */
class ExactnessRun {
  readonly #vm: ExactVm;
  readonly #protection: Protection;
  /** Holds `DISK.raw`, each disk as it was frozen for the last recovery point. */
  readonly #folder: string;
  readonly #faults = new Map<FaultKind, number>();
  readonly #mismatches: string[] = [];
  readonly #surprises: string[] = [];
  #model: DiskModel | undefined;
  /** Pages of the raw disk that jobs have written or discarded since the last point. */
  #touched = new Set<number>();
  /** Whether a backup since the last point had nothing to track changes by. */
  #isBaseGone = true;
  #isRunning = false;
  /** Whether the guest's own writer runs, which every boot ends. */
  #isBusy = false;
  #isDaemonDown = false;
  /** Backups that libvirt refused until the VM was started again. */
  #refusals = 0;
  #rounds = 0;
  #writtenBytes = 0;
  #trackedRounds = 0;
  #worstGrowth = 0;

  private constructor(vm: ExactVm, protection: Protection) {
    this.#vm = vm;
    this.#protection = protection;
    this.#folder = join(vm.directory, "exactness");
  }

  static async open(vm: ExactVm, protection: Protection): Promise<ExactnessRun> {
    const run = new ExactnessRun(vm, protection);
    await mkdir(run.#folder);
    await run.#start();
    const wipe = `umount /data/${rawDisk}; dd if=/dev/zero of=${rawDevice} bs=64k count=16 conv=notrunc,fsync`;
    await runInGuest(vm.exec, `(${wipe}) 2>/dev/null`);
    await run.#check(await run.#backUp(false), "the first point");
    return run;
  }

  get figures(): ExactnessFigures {
    return {
      rounds: this.#rounds,
      faults: this.#faults,
      writtenBytes: this.#writtenBytes,
      mismatches: this.#mismatches,
      trackedRounds: this.#trackedRounds,
      worstGrowth: this.#worstGrowth,
      surprises: this.#surprises,
      refusals: this.#refusals,
    };
  }

  /** One round; returns what happened, for people. */
  async apply(round: PlannedRound): Promise<string> {
    const startMs = systemClock.monotonicMs();
    const storedBefore = await storedBytesOf(this.#protection.storePath);
    if (round.isExpiryDue) await this.#expire();
    for (const write of round.writes) await this.#write(write);
    for (const fault of round.faults) {
      await this.#applyFault(fault, round);
      this.#faults.set(fault.kind, (this.#faults.get(fault.kind) ?? 0) + 1);
    }
    await this.#restartDaemon();
    if (!round.isOff) await this.#start();
    const wasBaseGone = this.#isBaseGone;
    const point = await this.#backUpAtLast(round);
    const name = `round ${round.number}`;
    const changedPages = await this.#check(point, name);
    const grown = (await storedBytesOf(this.#protection.storePath)) - storedBefore;
    const ratio = grown / (changedPages * pageBytes);
    this.#noteTracking(point, { name, wasBaseGone, ratio });
    await this.#start();
    this.#rounds += 1;
    const faults = round.faults.map(({ kind, moment }) => `${kind} (${moment})`).join(", ");
    const seconds = ((systemClock.monotonicMs() - startMs) / 1000).toFixed(1);
    return `${name}: ${faults || "no fault"}; ${changedPages} pages, growth ${ratio.toFixed(3)}, ${point.consistency}, ${point.disks[1]?.tracking ?? ""}, ${this.#mismatches.length} mismatches, ${seconds} s`;
  }

  #noteTracking(
    point: RecoveryPoint,
    round: { readonly name: string; readonly wasBaseGone: boolean; readonly ratio: number },
  ): void {
    const untracked = point.disks.filter(({ tracking }) => tracking !== "snapshot-difference");
    if (untracked.length === 0 && !round.wasBaseGone) {
      this.#trackedRounds += 1;
      this.#worstGrowth = Math.max(this.#worstGrowth, round.ratio);
    }
    if (round.wasBaseGone) return;
    for (const { name, trackingReason = "" } of untracked) {
      this.#surprises.push(`${round.name}, ${name}: ${trackingReason}`);
    }
  }

  async #restartDaemon(): Promise<void> {
    if (this.#isDaemonDown) await this.#vm.daemon?.restart();
    this.#isDaemonDown = false;
  }

  async #start(): Promise<void> {
    await this.#restartDaemon();
    if (!this.#isRunning) await this.#vm.hypervisor.start(this.#vm.vmId);
    this.#isRunning = true;
    if (this.#isBusy) return;
    this.#isBusy = true;
    await startInGuest(this.#vm.exec, ["/bin/sh", "-c", busyScript]);
  }

  async #write(write: PlannedWrite): Promise<void> {
    const model = this.#knownModel();
    const job = planJob(write, model.sizeBytes);
    await runInGuest(this.#vm.exec, 'fio "$@"', planFio(rawDevice, job));
    this.#touch(await model.write(job, "durable"));
    this.#writtenBytes += write.sizeBytes;
  }

  #touch(pages: readonly number[], isWritten = true): void {
    if (isWritten) for (const page of pages) this.#touched.add(page);
  }

  #knownModel(): DiskModel {
    if (this.#model === undefined) throw new Error("the first point makes the model");
    return this.#model;
  }

  async #applyFault(fault: PlannedFault, round: PlannedRound): Promise<void> {
    await this.#start();
    switch (fault.kind) {
      case "discard":
        return await this.#discard(fault);
      case "resize":
        return await this.#grow(fault);
      case "snapshot-deletion":
        return await this.#deleteSnapshots(fault);
      case "reboot":
      case "qemu-kill":
      case "libvirtd-kill":
        return await this.#interrupt(fault, round);
    }
  }

  async #discard(fault: PlannedFault): Promise<void> {
    const model = this.#knownModel();
    const { offsetBytes, lengthBytes } = placeOf(fault, model.sizeBytes);
    const range = ["-o", String(offsetBytes), "-l", String(lengthBytes), rawDevice];
    await runInGuest(this.#vm.exec, 'blkdiscard "$@"; sync', range);
    this.#touch(await model.discard({ offsetBytes, lengthBytes }));
    if (fault.isOther) await runInGuest(this.#vm.exec, "fstrim /data/vdc");
  }

  async #grow(fault: PlannedFault): Promise<void> {
    const model = this.#knownModel();
    const sizeBytes = model.sizeBytes + fault.sizeBytes;
    if (fault.moment === "idle") {
      await this.#vm.cutPower();
      this.#noteOff();
    }
    await this.#vm.grow(rawDisk, sizeBytes);
    await model.grow(sizeBytes);
  }

  async #deleteSnapshots(fault: PlannedFault): Promise<void> {
    const { hypervisor, vmId } = this.#vm;
    if (fault.isOther) await hypervisor.detach(vmId);
    else {
      const snapshots = await hypervisor.listSnapshots(vmId);
      await hypervisor.releaseSnapshots(vmId, new Set(snapshots.map(({ id }) => id)));
    }
    this.#isBaseGone = true;
  }

  /** Something dies while the guest writes, or a backup runs, or nothing goes on. */
  async #interrupt(fault: PlannedFault, round: PlannedRound): Promise<void> {
    let backup: Promise<void> | undefined;
    let job: readonly string[] | undefined;
    if (fault.moment === "writing") {
      job = planJob(round.lastWrite, this.#knownModel().sizeBytes);
      await startInGuest(this.#vm.exec, ["fio", ...planFio(rawDevice, job)]);
    }
    if (fault.moment === "backup") backup = this.#backUpUnderFault(round.isFrozen);
    await systemClock.sleep(fault.delayMs);
    await this.#end(fault, backup);
    await backup;
    if (job === undefined) return;
    const goesOn = fault.kind === "libvirtd-kill";
    if (goesOn)
      await runInGuest(this.#vm.exec, "while pidof fio >/dev/null; do usleep 50000; done");
    this.#touch(await this.#knownModel().write(job, goesOn ? "durable" : "unknown"), goesOn);
  }

  async #end(fault: PlannedFault, backup: Promise<void> | undefined): Promise<void> {
    if (fault.kind === "libvirtd-kill") {
      await this.#vm.daemon?.kill();
      this.#isDaemonDown = true;
      return;
    }
    if (fault.kind === "qemu-kill") {
      await this.#vm.cutPower();
      this.#noteOff();
      return;
    }
    if (fault.isOther) await this.#vm.reset();
    else await this.#shutDown(backup);
    this.#isRunning = fault.isOther;
    this.#isBusy = false;
  }

  #noteOff(): void {
    this.#isRunning = false;
    this.#isBusy = false;
  }

  async #shutDown(backup: Promise<void> | undefined): Promise<void> {
    // A shutdown is an operation, which waits for no other.
    await backup;
    await this.#vm.shutDown();
  }

  /** A backup in whose middle something dies: it succeeds or says why not. */
  async #backUpUnderFault(isFrozen: boolean): Promise<void> {
    try {
      await this.#protection.runJob({ consistency: isFrozen ? "file-system" : "crash" });
    } catch (error) {
      if (!isKluisError(error)) throw error;
    }
  }

  async #expire(): Promise<void> {
    const { hypervisor, vmId } = this.#vm;
    const clock = { ...systemClock, nowMs: () => systemClock.nowMs() + farDays * dayMs };
    await expireSnapshots(vmId, 0, { hypervisor, clock });
  }

  async #backUp(isFrozen: boolean): Promise<RecoveryPoint> {
    const consistency = isFrozen ? "file-system" : "crash";
    const { manifest } = await this.#protection.backUp({ consistency });
    this.#isBaseGone = false;
    return manifest;
  }

  /** libvirt that died and lost track of a QEMU refuses snapshots until the VM was started again. */
  async #backUpAtLast(round: PlannedRound): Promise<RecoveryPoint> {
    try {
      return await this.#backUp(round.isFrozen);
    } catch (error) {
      const hasLostTrack = round.faults.some(({ kind }) => kind === "libvirtd-kill");
      if (!hasLostTrack || !isKluisError(error, "SnapshotFailed")) throw error;
      this.#refusals += 1;
      await this.#vm.shutDown();
      this.#noteOff();
      await this.#start();
      return await this.#backUp(round.isFrozen);
    }
  }

  /** Restores the point and compares it; returns how many pages were written since the last one. */
  async #check(point: RecoveryPoint, name: string): Promise<number> {
    const restored = join(this.#folder, "restored");
    await mkdir(restored);
    const targets = point.disks.map((disk) => ({
      diskName: disk.name,
      place: join(restored, `${disk.name}.raw`),
      format: "raw" as const,
    }));
    const deps = {
      clock: systemClock,
      images: imageAccess,
      openDisk: fromVault(this.#protection.vault, point),
    };
    await applyRestore(await prepareRestore(point, { targets, overwrite: false }, deps), deps);
    let pages = 0;
    for (const disk of diskNames) {
      const before = join(this.#folder, `${disk}.raw`);
      const copy = join(this.#folder, `${disk}.new`);
      await copyFrozenDisk(this.#vm.imagePath(disk), copy);
      const differing = await findFilePages(join(restored, `${disk}.raw`), copy);
      if (differing.length > 0) this.#mismatch(name, `${disk}: ${differing.length} pages`);
      const changed = new Set(await findFilePages(before, copy));
      pages += disk === rawDisk ? await this.#countRaw(changed, copy, name) : changed.size;
      await rename(copy, before);
    }
    await rm(restored, { recursive: true });
    return pages;
  }

  /** Compares the raw disk with what must be there; returns how many pages were written or discarded. */
  async #countRaw(changed: ReadonlySet<number>, path: string, name: string): Promise<number> {
    const copy = await readFile(path);
    if (this.#model === undefined) {
      this.#model = await DiskModel.create(join(this.#folder, "model"), copy);
    } else {
      const wrong = await this.#model.settle(copy);
      if (wrong !== undefined) this.#mismatch(name, `page ${wrong} is not what the guest wrote`);
    }
    const union = new Set([...this.#touched, ...changed]);
    this.#touched = new Set();
    return union.size;
  }

  #mismatch(name: string, what: string): void {
    this.#mismatches.push(`${name}, ${what}`);
  }
}

function placeOf(
  wanted: { readonly place: number; readonly sizeBytes: number },
  diskBytes: number,
): { readonly offsetBytes: number; readonly lengthBytes: number } {
  const diskPages = Math.floor(diskBytes / pageBytes);
  const pages = Math.min(wanted.sizeBytes / pageBytes, diskPages);
  const first = Math.floor((diskPages - pages) * wanted.place);
  return { offsetBytes: first * pageBytes, lengthBytes: pages * pageBytes };
}

/** The same arguments for the guest and for the model. */
function planJob(write: PlannedWrite, diskBytes: number): readonly string[] {
  const { pattern, seed, sizeBytes } = write;
  const common = [`--randseed=${seed}`, `--bs=${pageBytes}`];
  if (pattern === "scattered") {
    const size = Math.floor(diskBytes / pageBytes) * pageBytes;
    return [...common, "--rw=randwrite", `--size=${size}`, `--io_size=${sizeBytes}`];
  }
  const { offsetBytes, lengthBytes } = placeOf(write, diskBytes);
  const zeros = pattern === "zeros" ? ["--zero_buffers=1"] : [];
  return [...common, ...zeros, "--rw=write", `--offset=${offsetBytes}`, `--size=${lengthBytes}`];
}
