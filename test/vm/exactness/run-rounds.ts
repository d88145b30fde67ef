/**
 * The rounds of an exactness run: the guest writes, something happens to it, a backup is taken, and each
 * recovery point, those made while something happened too, is restored and compared, byte for byte: with
 * copies by qemu-img, of the frozen layers or, without a snapshot tier, of frozen file systems; and on the
 * raw disk with what a second run of the same jobs on the host says, where the guest may write on.
 */
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { pageBytes } from "#formats/geometry.ts";
import { expireSnapshots } from "#protect/expire-snapshots.ts";
import { dayMs } from "#protect/plan-expiry.ts";
import { toVmItemId } from "#protect/backup-vm.ts";
import type { RestorablePoint } from "#protect/plan-restore.ts";
import {
  applyRestore,
  fromSnapshotDisks,
  fromVault,
  prepareRestore,
  type OpenDisk,
} from "#protect/restore.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import { createPrng } from "#testing/seed.ts";
import { storedBytesOf } from "../../../bench/stored-bytes.ts";
import { runInGuest, startInGuest } from "../../../lab/guest.ts";
import { planFio } from "../../../lab/plan-fio.ts";
import { protectVm, type Protection } from "../protected-vm.ts";
import { DiskModel } from "./disk-model.ts";
import { createExactVm, type DriverName, type ExactVm } from "./exact-vm.ts";
import { copyFrozenDisk, findFilePages } from "./frozen-copy.ts";
import { InstantCopies } from "./instant-copies.ts";
import { startLiveJobs, waitForJobs } from "./live-writes.ts";
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
const fileSystemDisks = ["vda", "vdc"] as const;
/** So slow and so often durable that it goes on over the instant of a backup. */
const livePace = ["--rate=1m", "--fsync=16"];
/** Writes all the time on a disk with a file system. */
const busyScript = `while :; do
  dd if=/dev/urandom of=/data/vdc/busy bs=4k count=8 seek=$((RANDOM % 128)) conv=notrunc
  sync; usleep 150000
done`;
/** Days by which every snapshot that may expire has expired. */
const farDays = 3;

/** What a backup under a fault acknowledged, and where the point is at least. */
interface Told {
  readonly pointId: string;
  readonly tier: "snapshot" | "vault";
}

/** A recovery point to compare. */
interface CheckedPoint extends RestorablePoint {
  readonly consistency: string;
}

/** What a run came to. */
export interface ExactnessFigures {
  readonly rounds: number;
  readonly faults: ReadonlyMap<FaultKind, number>;
  /** Bytes that the jobs wrote and that were durable. */
  readonly writtenBytes: number;
  /** What was not equal, for people. */
  readonly mismatches: readonly string[];
  /** Rounds in which every disk of every backup was tracked by snapshots. */
  readonly trackedRounds: number;
  /** The same of those without a snapshot tier, by dirty bitmaps. */
  readonly bitmapRounds: number;
  /** Points compared that were acknowledged, or found in the vault, after a fault during their backup. */
  readonly pointsUnderFault: number;
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
  readonly #copies: InstantCopies;
  /** Holds `DISK.raw`, each disk as the last recovery point has it. */
  readonly #folder: string;
  readonly #faults = new Map<FaultKind, number>();
  readonly #mismatches: string[] = [];
  readonly #surprises: string[] = [];
  #model: DiskModel | undefined;
  /** Pages of the raw disk that jobs have written or discarded since the last point. */
  #touched = new Set<number>();
  /** Whether a backup since the last point had nothing to track changes by. */
  #isBaseGone = true;
  /** Whether backups are made without a snapshot tier now. */
  #isFleeced = false;
  /** Of the newest point in the vault. */
  #lastPointId: string | undefined;
  /** What the guest writes over the instant of a backup. */
  #live: { readonly job: readonly string[]; readonly pages: readonly number[] } | undefined;
  /** Pages changed up to the points of this round, and whether the store grew by just those. */
  #roundPages = 0;
  #isRoundExact = true;
  #isRunning = false;
  /** Whether the guest's own writer runs, which every boot ends. */
  #isBusy = false;
  #isDaemonDown = false;
  /** Backups that libvirt refused until the VM was started again. */
  #refusals = 0;
  #rounds = 0;
  #writtenBytes = 0;
  #trackedRounds = 0;
  #bitmapRounds = 0;
  #pointsUnderFault = 0;
  #worstGrowth = 0;

  private constructor(
    vm: ExactVm,
    protection: Protection,
    witness: { readonly folder: string; readonly copies: InstantCopies },
  ) {
    this.#vm = vm;
    this.#protection = protection;
    this.#folder = witness.folder;
    this.#copies = witness.copies;
  }

  static async open(vm: ExactVm, protection: Protection): Promise<ExactnessRun> {
    const folder = join(vm.directory, "exactness");
    await mkdir(folder);
    const copies = await InstantCopies.open(vm, folder);
    const run = new ExactnessRun(vm, protection, { folder, copies });
    await run.#start();
    const wipe = `umount /data/${rawDisk}; dd if=/dev/zero of=${rawDevice} bs=64k count=16 conv=notrunc,fsync`;
    await runInGuest(vm.exec, `(${wipe}) 2>/dev/null`);
    await run.#checkInVault(await run.#backUp(), "the first point");
    return run;
  }

  get figures(): ExactnessFigures {
    return {
      rounds: this.#rounds,
      faults: this.#faults,
      writtenBytes: this.#writtenBytes,
      mismatches: this.#mismatches,
      trackedRounds: this.#trackedRounds,
      bitmapRounds: this.#bitmapRounds,
      pointsUnderFault: this.#pointsUnderFault,
      worstGrowth: this.#worstGrowth,
      surprises: this.#surprises,
      refusals: this.#refusals,
    };
  }

  /** One round; returns what happened, for people. */
  async apply(round: PlannedRound): Promise<string> {
    const startMs = systemClock.monotonicMs();
    const storedBefore = await storedBytesOf(this.#protection.storePath);
    const name = `round ${round.number}`;
    this.#roundPages = 0;
    this.#isRoundExact = true;
    await this.#changeWay(round.isFleeced);
    if (round.isExpiryDue) await this.#expire();
    for (const write of round.writes) await this.#write(write);
    for (const fault of round.faults) {
      await this.#applyFault(fault, round);
      this.#faults.set(fault.kind, (this.#faults.get(fault.kind) ?? 0) + 1);
    }
    await this.#restartDaemon();
    // What does not run has a snapshot for nothing, and is refused another way.
    if (!round.isOff || round.isFleeced) await this.#start();
    const point = await this.#backUpAtLast(round);
    const wasBaseGone = this.#isBaseGone;
    if (wasBaseGone) this.#isRoundExact = false;
    await this.#checkInVault(point, name);
    await this.#endLiveWrite();
    const grown = (await storedBytesOf(this.#protection.storePath)) - storedBefore;
    const ratio = grown / (this.#roundPages * pageBytes);
    this.#noteTracking(point, { name, wasBaseGone, ratio });
    await this.#start();
    this.#rounds += 1;
    const faults = round.faults.map(({ kind, moment }) => `${kind} (${moment})`).join(", ");
    const seconds = ((systemClock.monotonicMs() - startMs) / 1000).toFixed(1);
    return `${name}: ${faults || "no fault"}; ${this.#roundPages} pages, growth ${ratio.toFixed(3)}, ${point.consistency}, ${point.disks[1]?.tracking ?? ""}, ${this.#mismatches.length} mismatches, ${seconds} s`;
  }

  #noteTracking(
    point: RecoveryPoint,
    round: { readonly name: string; readonly wasBaseGone: boolean; readonly ratio: number },
  ): void {
    const wanted = this.#isFleeced ? "dirty-bitmap" : "snapshot-difference";
    const untracked = point.disks.filter(({ tracking }) => tracking !== wanted);
    if (untracked.length === 0 && this.#isRoundExact) {
      if (this.#isFleeced) this.#bitmapRounds += 1;
      else this.#trackedRounds += 1;
      // While file systems are copied here the guest stays frozen and writes what bitmaps name in vain.
      const isHeld = this.#isFleeced && point.consistency !== "crash";
      if (!isHeld) this.#worstGrowth = Math.max(this.#worstGrowth, round.ratio);
    }
    if (round.wasBaseGone) return;
    for (const { name, trackingReason = "" } of untracked) {
      this.#surprises.push(`${round.name}, ${name}: ${trackingReason}`);
    }
  }

  /** Backups with and without a snapshot tier do not mix: the next has no base. */
  async #changeWay(isFleeced: boolean): Promise<void> {
    if (isFleeced === this.#isFleeced) return;
    if (isFleeced) await this.#vm.hypervisor.detach(this.#vm.vmId);
    this.#isFleeced = isFleeced;
    this.#isBaseGone = true;
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
        return await this.#resize(fault);
      case "snapshot-deletion":
        return await this.#deleteSnapshots(fault, round);
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

  async #resize(fault: PlannedFault): Promise<void> {
    const model = this.#knownModel();
    // What a truncation does to bitmaps concerns disks without layers; a base that was larger is none.
    const shrinks = this.#isFleeced && fault.isOther && fault.moment !== "idle";
    const sizeBytes = model.sizeBytes + (shrinks ? -fault.sizeBytes : fault.sizeBytes);
    if (shrinks) this.#isBaseGone = true;
    if (fault.moment === "idle") {
      await this.#vm.cutPower();
      this.#noteOff();
    }
    await this.#vm.resize(rawDisk, sizeBytes);
    await model.resize(sizeBytes);
  }

  async #deleteSnapshots(fault: PlannedFault, round: PlannedRound): Promise<void> {
    const { hypervisor, vmId } = this.#vm;
    if (this.#isFleeced) {
      // One that somebody takes and gives up again: what was written over it is merged into the disk.
      await hypervisor.takeSnapshot(vmId, { consistency: "crash", freezeBudgetMs: 1_000 });
      await this.#write(round.lastWrite);
      await hypervisor.detach(vmId);
    } else if (fault.isOther) await hypervisor.detach(vmId);
    else {
      const snapshots = await hypervisor.listSnapshots(vmId);
      await hypervisor.releaseSnapshots(vmId, new Set(snapshots.map(({ id }) => id)));
    }
    this.#isBaseGone = true;
  }

  /** Something dies while the guest writes, or a backup runs, or nothing goes on. */
  async #interrupt(fault: PlannedFault, round: PlannedRound): Promise<void> {
    let backup: Promise<Told | undefined> | undefined;
    let job: readonly string[] | undefined;
    if (fault.moment === "writing") {
      job = planJob(round.lastWrite, this.#knownModel().sizeBytes);
      await startInGuest(this.#vm.exec, ["fio", ...planFio(rawDevice, job)]);
    }
    if (fault.moment === "backup") backup = this.#backUpUnderFault(round.isFrozen);
    await systemClock.sleep(fault.delayMs);
    await this.#end(fault, backup);
    if (backup !== undefined) {
      await this.#checkUnderFault(await backup, `round ${round.number}, under a fault`);
    }
    if (job === undefined) return;
    const goesOn = fault.kind === "libvirtd-kill";
    if (goesOn) await waitForJobs(this.#vm.exec);
    this.#touch(await this.#knownModel().write(job, goesOn ? "durable" : "unknown"), goesOn);
  }

  async #end(fault: PlannedFault, backup: Promise<unknown> | undefined): Promise<void> {
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
    if (fault.isOther) {
      await this.#vm.reset();
      this.#isBusy = false;
      return;
    }
    await this.#shutDown(backup);
    this.#noteOff();
  }

  #noteOff(): void {
    this.#isRunning = false;
    this.#isBusy = false;
    // Bitmaps go with their QEMU.
    if (this.#isFleeced) this.#isBaseGone = true;
  }

  async #shutDown(backup: Promise<unknown> | undefined): Promise<void> {
    // A shutdown is an operation, which waits for no other.
    await backup;
    await this.#vm.shutDown();
  }

  /** A backup in whose middle something dies: it succeeds, in part or whole, or says why not. */
  async #backUpUnderFault(isFrozen: boolean): Promise<Told | undefined> {
    try {
      if (this.#isFleeced) {
        const { pointId } = await this.#backUpFleeced(isFrozen);
        return { pointId, tier: "vault" };
      }
      const consistency = isFrozen ? "file-system" : "crash";
      const { taken, transfer } = await this.#protection.runJob({ consistency });
      const pointId = taken.snapshot.label?.pointId ?? "";
      return { pointId, tier: transfer.status === "Completed" ? "vault" : "snapshot" };
    } catch (error) {
      if (!isKluisError(error)) throw error;
      return undefined;
    }
  }

  /** Compares what a backup under a fault acknowledged, and a point that it left in the vault untold. */
  async #checkUnderFault(told: Told | undefined, name: string): Promise<void> {
    await this.#restartDaemon();
    const { hypervisor, vmId } = this.#vm;
    const { vault } = this.#protection;
    const newest = (await vault.listPoints(toVmItemId(vmId))).at(-1);
    if (told?.tier === "vault" && told.pointId !== newest?.pointId) {
      this.#mismatch(name, "the point that was acknowledged is not in the vault");
    }
    if (newest !== undefined && newest.pointId !== this.#lastPointId) {
      this.#pointsUnderFault += 1;
      if (this.#isBaseGone) this.#isRoundExact = false;
      return await this.#checkInVault(await vault.readPoint(newest), name);
    }
    if (told?.tier !== "snapshot") return;
    const snapshots = await hypervisor.listSnapshots(vmId);
    const snapshot = snapshots.find(({ label }) => label?.pointId === told.pointId);
    if (snapshot === undefined) {
      this.#mismatch(name, "the snapshot that was acknowledged is not there");
      return;
    }
    this.#pointsUnderFault += 1;
    this.#isRoundExact = false;
    const { consistency } = snapshot.consistency;
    const point = { pointId: told.pointId, disks: snapshot.disks, consistency };
    await this.#check(point, fromSnapshotDisks(snapshot), name);
  }

  async #expire(): Promise<void> {
    const { hypervisor, vmId } = this.#vm;
    const clock = { ...systemClock, nowMs: () => systemClock.nowMs() + farDays * dayMs };
    await expireSnapshots(vmId, 0, { hypervisor, clock });
  }

  /** Without a round it freezes nothing, and nothing is written over its instant. */
  async #backUp(round?: PlannedRound): Promise<RecoveryPoint> {
    const isFrozen = round?.isFrozen === true;
    if (!this.#isFleeced || round === undefined) {
      const consistency = isFrozen ? "file-system" : "crash";
      return (await this.#protection.backUp({ consistency })).manifest;
    }
    const model = this.#knownModel();
    const job = planJob(round.liveWrite, model.sizeBytes);
    let isStarted = false;
    try {
      return await this.#backUpFleeced(isFrozen, async () => {
        isStarted = true;
        await startLiveJobs(this.#vm.exec, [{ device: rawDevice, job, pace: livePace }]);
      });
    } finally {
      if (isStarted) {
        await waitForJobs(this.#vm.exec);
        // The instant has of it what it has; what was there before is all that it can have instead.
        this.#live = { job, pages: await model.write(job, "unknown") };
      }
    }
  }

  async #backUpFleeced(
    isFrozen: boolean,
    beforeInstant?: () => Promise<void>,
  ): Promise<RecoveryPoint> {
    this.#copies.expect(isFrozen ? fileSystemDisks : [], beforeInstant);
    const consistency = isFrozen ? "file-system" : "crash";
    const { hypervisor } = this.#copies;
    return (await this.#protection.backUpFleeced(hypervisor, { consistency })).manifest;
  }

  /** The guest has written on behind the instant that the model was settled at. */
  async #endLiveWrite(): Promise<void> {
    const live = this.#live;
    this.#live = undefined;
    if (live === undefined) return;
    await this.#knownModel().write(live.job, "durable");
    // The bitmap of the next point began before the job, so that all of it is in that one too.
    this.#touch(live.pages);
  }

  /** libvirt that died and lost track of a QEMU refuses snapshots until the VM was started again. */
  async #backUpAtLast(round: PlannedRound): Promise<RecoveryPoint> {
    try {
      return await this.#backUp(round);
    } catch (error) {
      const hasLostTrack = round.faults.some(({ kind }) => kind === "libvirtd-kill");
      if (!hasLostTrack || !isKluisError(error, "SnapshotFailed")) throw error;
      this.#refusals += 1;
      await this.#vm.shutDown();
      this.#noteOff();
      await this.#start();
      return await this.#backUp(round);
    }
  }

  async #checkInVault(point: RecoveryPoint, name: string): Promise<void> {
    this.#lastPointId = point.pointId;
    this.#isBaseGone = this.#isFleeced && !this.#isRunning;
    await this.#check(point, fromVault(this.#protection.vault, point), name);
  }

  /** Restores the point and compares it; counts the pages that were changed since the last one. */
  async #check(point: CheckedPoint, openDisk: OpenDisk, name: string): Promise<void> {
    const restored = join(this.#folder, "restored");
    await mkdir(restored);
    const pathOf = (disk: string): string => join(restored, `${disk}.raw`);
    const targets = point.disks.map((disk) => ({
      diskName: disk.name,
      place: pathOf(disk.name),
      format: "raw" as const,
    }));
    const deps = { clock: systemClock, images: imageAccess, openDisk };
    await applyRestore(await prepareRestore(point, { targets, overwrite: false }, deps), deps);
    const pages = await Promise.all(
      [...fileSystemDisks, rawDisk].map(async (disk) => {
        const before = join(this.#folder, `${disk}.raw`);
        const copy = await this.#copyOf(disk, point);
        const differing = copy === undefined ? [] : await findFilePages(pathOf(disk), copy);
        if (differing.length > 0) this.#mismatch(name, `${disk}: ${differing.length} pages`);
        const changed = new Set(await findFilePages(before, pathOf(disk)));
        await rename(pathOf(disk), before);
        return disk === rawDisk ? await this.#countRaw(changed, before, name) : changed.size;
      }),
    );
    this.#roundPages += pages.reduce((sum, each) => sum + each, 0);
    await rm(restored, { recursive: true });
  }

  /** A copy of the disk at the instant of the newest point, by qemu-img; `undefined` where there is none. */
  async #copyOf(disk: string, { consistency }: CheckedPoint): Promise<string | undefined> {
    // Without a freeze the guest wrote on while qemu-img read.
    if (this.#isFleeced) return consistency === "crash" ? undefined : this.#copies.find(disk);
    const copy = join(this.#folder, `${disk}.new`);
    await copyFrozenDisk(this.#vm.imagePath(disk), copy);
    return copy;
  }

  /** Compares the raw disk with what must be there; returns how many pages were written or discarded. */
  async #countRaw(changed: ReadonlySet<number>, path: string, name: string): Promise<number> {
    const found = await readFile(path);
    if (this.#model === undefined) {
      this.#model = await DiskModel.create(join(this.#folder, "model"), found);
    } else {
      const wrong = await this.#model.settle(found);
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
