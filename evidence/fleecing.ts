/**
 * Backs up a VM without a snapshot tier, again and again, while its guest writes on two disks: the
 * machine is never stopped. Each job of the guest runs on the host too, with the same seed, so that it is
 * known what each disk must hold at any instant; the disk of the system is copied by another program while
 * its file systems are frozen. Each recovery point is read back from the vault and compared.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { pageBytes } from "#formats/geometry.ts";
import { createPrng, type Prng } from "#testing/seed.ts";
import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";

import { runInGuest, startInGuest } from "../lab/guest.ts";
import { planFio } from "../lab/plan-fio.ts";
import { DiskModel } from "../test/vm/exactness/disk-model.ts";
import { createExactVm, type DriverName, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import { InstantCopies } from "../test/vm/exactness/instant-copies.ts";
import { startLiveJobs, waitForJobs } from "../test/vm/exactness/live-writes.ts";
import { findDifference, protectVm, type Protection } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 20;
const longRounds = 200;
const dataDiskMiB = 64;
const seedsMost = 0x7fff_ffff;
const systemDisk = "vda";
const dataDisks = ["vdb", "vdc"] as const;
/** Written and durable before each instant, anywhere. */
const scatteredBytes = 2 * 1024 * 1024;
/** Written over each instant, page after page, each durable before the next. */
const livePages = 768;
const livePace = ["--rate=1m", "--fsync=1"];
/** So many of the instants at least must have found a disk in the middle of its writes. */
const overlapsLeast = 0.5;
/** Changes the system's disk all the time. */
const busyScript = `while :; do
  dd if=/dev/urandom of=/root/busy bs=4k count=8 seek=$((RANDOM % 128)) conv=notrunc
  sync; usleep 150000
done`;

const drivers = ["qemu", "libvirt"] as const;

/** `KLUIS_LONG=1` takes 200 rounds. Options for a try: `--rounds=N`, `--driver=NAME`; `--seed=N` repeats a run. */
export const evidence: Evidence = {
  name: "fleecing",
  claim:
    "a recovery point made without a snapshot tier equals the disks at its instant, whatever the guest writes meanwhile",
  bar: `${wholeRounds} points of each driver, the machine never stopped: every data disk holds what the guest had written, in the order of its writes, the system's disk equals an independent copy in each other point; all but the first point by dirty bitmaps; ≥ ${overlapsLeast} of the instants within the writes`,
  run,
};

/** What the rounds of one driver came to. */
interface Figures {
  points: number;
  equal: number;
  compared: number;
  byBitmap: number;
  disks: number;
  /** Instants of a data disk that fell between two of its writes. */
  overlaps: number;
}

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const usual = process.env["KLUIS_LONG"] === "1" ? longRounds : wholeRounds;
  const { rounds: wantedRounds, driver: wanted, seed: wantedSeed } = context.options;
  const rounds = Number(wantedRounds ?? usual);
  const fresh = createPrng(Math.trunc(performance.timeOrigin)).below(seedsMost);
  const seed = Number(wantedSeed ?? fresh);
  context.log(`seed ${seed} (repeat with --seed=${seed})`);
  const parts: string[] = [];
  let holds = true;
  for (const driver of drivers) {
    if (wanted !== undefined && wanted !== driver) continue;
    const figures = await runRounds({ driver, rounds, seed }, context);
    const { points, equal, compared, byBitmap, disks, overlaps } = figures;
    const later = disks - disks / points;
    const instants = points * dataDisks.length;
    parts.push(
      `${driver}: ${equal} of ${compared} disks compared in ${points} points equal; ${byBitmap} of ${later} by bitmaps; ${overlaps} of ${instants} instants within the writes`,
    );
    holds &&= equal === compared && byBitmap === later && overlaps >= instants * overlapsLeast;
  }
  const isTry = rounds < wholeRounds || wanted !== undefined;
  return {
    figure: `${parts.join("; ")}; seed ${seed}`,
    holds,
    ...(isTry ? { isPartial: true } : {}),
  };
}

/** A data disk of the guest and what it must hold. */
interface ModelledDisk {
  readonly name: string;
  readonly device: string;
  readonly model: DiskModel;
}

async function runRounds(
  plan: { readonly driver: DriverName; readonly rounds: number; readonly seed: number },
  context: EvidenceContext,
): Promise<Figures> {
  const { driver, rounds, seed } = plan;
  await using vm = await createExactVm(driver, dataDiskMiB);
  await using protection = await protectVm(vm);
  const folder = join(vm.directory, "fleecing");
  await mkdir(folder);
  const copies = await InstantCopies.open(vm, folder);
  const prng = createPrng(seed);
  await vm.hypervisor.start(vm.vmId);
  const disks = await fillDisks(vm, folder, prng);
  await startInGuest(vm.exec, ["/bin/sh", "-c", busyScript]);
  const figures = { points: 0, equal: 0, compared: 0, byBitmap: 0, disks: 0, overlaps: 0 };
  for (let round = 0; round < rounds; round += 1) {
    context.signal.throwIfAborted();
    const startMs = systemClock.monotonicMs();
    const isFrozen = round % 2 === 1;
    const wrong = await runRound({ vm, protection, copies, disks, prng, isFrozen }, figures);
    const seconds = ((systemClock.monotonicMs() - startMs) / 1000).toFixed(1);
    context.log([`${driver}: round ${round + 1} of ${rounds}, ${seconds} s`, ...wrong].join("; "));
  }
  return figures;
}

/** Takes the file systems away and gives every byte a content that is known. */
async function fillDisks(
  vm: ExactVm,
  folder: string,
  prng: Prng,
): Promise<readonly ModelledDisk[]> {
  const disks: ModelledDisk[] = [];
  for (const name of dataDisks) {
    const device = `/dev/${name}`;
    await runInGuest(vm.exec, `umount /data/${name}`);
    const empty = Buffer.alloc(dataDiskMiB * 1024 * 1024);
    const model = await DiskModel.create(join(folder, `${name}.model`), empty);
    const seed = 1 + prng.below(seedsMost);
    const job = ["--rw=write", "--bs=1m", `--size=${dataDiskMiB}m`, `--randseed=${seed}`];
    await runInGuest(vm.exec, 'fio "$@"', planFio(device, job));
    await model.write(job, "durable");
    disks.push({ name, device, model });
  }
  return disks;
}

/** What a round works on. */
interface Round {
  readonly vm: ExactVm;
  readonly protection: Protection;
  readonly copies: InstantCopies;
  readonly disks: readonly ModelledDisk[];
  readonly prng: Prng;
  readonly isFrozen: boolean;
}

/** One recovery point, compared; returns what is wrong with it, for people. */
async function runRound(round: Round, figures: Figures): Promise<readonly string[]> {
  const { vm, protection, copies, disks, prng, isFrozen } = round;
  const live = new Map<string, PageRun>();
  for (const disk of disks) {
    const job = planScattered(prng);
    await runInGuest(vm.exec, 'fio "$@"', planFio(disk.device, job));
    await disk.model.write(job, "durable");
    live.set(disk.name, planLive(prng));
  }
  copies.expect(isFrozen ? [systemDisk] : [], async () => {
    const jobs = disks.map(({ name, device }) => {
      const job = live.get(name)?.job ?? [];
      return { device, job, pace: livePace };
    });
    await startLiveJobs(vm.exec, jobs);
  });
  const consistency = isFrozen ? "file-system" : "crash";
  const { manifest } = await protection.backUpFleeced(copies.hypervisor, { consistency });
  if (manifest.consistency !== consistency) throw new Error(`the point is ${manifest.consistency}`);
  await waitForJobs(vm.exec);
  const wrong: string[] = [];
  for (const disk of disks) {
    const job = live.get(disk.name) ?? planLive(prng);
    wrong.push(...(await compareData({ disk, job, protection, manifest }, figures)));
  }
  if (isFrozen) wrong.push(...(await compareSystem(round, manifest, figures)));
  const trackings = manifest.disks.map(({ tracking }) => tracking);
  figures.points += 1;
  figures.disks += trackings.length;
  figures.byBitmap += trackings.filter((tracking) => tracking === "dirty-bitmap").length;
  return wrong;
}

function planScattered(prng: Prng): readonly string[] {
  const common = ["--rw=randwrite", `--bs=${pageBytes}`, `--size=${dataDiskMiB}m`];
  return [...common, `--io_size=${scatteredBytes}`, `--randseed=${1 + prng.below(seedsMost)}`];
}

/** Pages that are written one after the other. */
interface PageRun {
  readonly job: readonly string[];
  readonly firstPage: number;
}

function planLive(prng: Prng): PageRun {
  const firstPage = prng.below((dataDiskMiB * 1024 * 1024) / pageBytes - livePages);
  const place = [`--offset=${firstPage * pageBytes}`, `--size=${livePages * pageBytes}`];
  const seed = `--randseed=${1 + prng.below(seedsMost)}`;
  return { job: ["--rw=write", `--bs=${pageBytes}`, ...place, seed], firstPage };
}

async function compareData(
  point: {
    readonly disk: ModelledDisk;
    readonly job: PageRun;
    readonly protection: Protection;
    readonly manifest: RecoveryPoint;
  },
  figures: Figures,
): Promise<readonly string[]> {
  const { disk, job, protection, manifest } = point;
  const { name, model } = disk;
  const found = await readKept(protection, diskOf(manifest, name));
  const wrong: string[] = [];
  await model.write(job.job, "unknown");
  const page = await model.settle(found);
  if (page !== undefined) wrong.push(`${name} holds what was not written in page ${page}`);
  // What the instant did not have yet is what this changes now.
  const later = await model.write(job.job, "durable");
  const written = livePages - later.length;
  const isInOrder = later.every((each, at) => each === job.firstPage + written + at);
  if (!isInOrder) wrong.push(`${name} has a later write without an earlier one`);
  if (written > 0 && later.length > 0) figures.overlaps += 1;
  figures.compared += 1;
  if (wrong.length === 0) figures.equal += 1;
  return wrong;
}

async function compareSystem(
  { protection, copies }: Round,
  manifest: RecoveryPoint,
  figures: Figures,
): Promise<readonly string[]> {
  const path = copies.find(systemDisk);
  if (path === undefined) throw new Error("the system's disk was not copied");
  await using kept = protection.vault.openDisk(diskOf(manifest, systemDisk));
  await using copy = await openDiskImage(path, { format: "raw" });
  const differsAt = await findDifference(kept, copy);
  figures.compared += 1;
  if (differsAt !== undefined) return [`${systemDisk} differs at byte ${differsAt}`];
  figures.equal += 1;
  return [];
}

function diskOf(manifest: RecoveryPoint, name: string): RecoveryPointDisk {
  const disk = manifest.disks.find((each) => each.name === name);
  if (disk === undefined) throw new Error(`the point has no disk ${name}`);
  return disk;
}

async function readKept({ vault }: Protection, disk: RecoveryPointDisk): Promise<Buffer> {
  await using reader = vault.openDisk(disk);
  const content = Buffer.alloc(reader.sizeBytes);
  await reader.read(0, content);
  return content;
}
