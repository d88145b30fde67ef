/**
 * A guest overwrites a gigabyte, which goes into the vault as one increment; then the same disk goes into
 * an empty vault in full.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { median } from "../bench/statistics.ts";
import { runInGuest } from "../lab/guest.ts";
import { planFio } from "../lab/plan-fio.ts";
import { createExactVm, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import { protectVm, type Protection } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const least = 0.6;
const GB = 1e9;
const MiB = 1024 * 1024;
const longGigabytes = 20;
const wholeRounds = 3;
const restMiB = 64;

/** Bytes a second of one transfer, the search for changes included. */
interface Rates {
  readonly increment: number;
  readonly full: number;
}

/** 20 GB with KLUIS_LONG=1. Options for a try: `--gb=N`, `--rounds=N`. */
export const evidence: Evidence = {
  name: "churn",
  claim: "much churn in one increment goes nearly as fast as a full backup of the same data",
  bar: `≥ ${least} × the rate of the full backup, median of ${wholeRounds} rounds`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const whole = process.env["KLUIS_LONG"] === "1" ? longGigabytes : 1;
  const gigabytes = Number(context.options["gb"] ?? whole);
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const changedMiB = Math.ceil((gigabytes * GB) / MiB);
  await using vm = await createExactVm("qemu", changedMiB + restMiB);
  await using protection = await protectVm(vm);
  await vm.hypervisor.start(vm.vmId);
  await runInGuest(vm.exec, "umount /data/vdb");
  await overwrite(vm, changedMiB, 1);
  await protection.backUp({ consistency: "crash" });
  const measured: Rates[] = [];
  for (let round = 0; round < rounds; round += 1) {
    context.signal.throwIfAborted();
    await overwrite(vm, changedMiB, round + 2);
    const increment = await measureRate(protection, "snapshot-difference");
    const rates = { increment, full: await measureFull(vm, context.scratch) };
    measured.push(rates);
    context.log(`increment ${toMegabytes(rates.increment)}, full ${toMegabytes(rates.full)}`);
  }
  const ratio = median(measured.map(({ increment, full }) => increment / full));
  const middle = (of: keyof Rates): string => toMegabytes(median(measured.map((each) => each[of])));
  const isTry = gigabytes !== whole || rounds !== wholeRounds;
  return {
    figure: `${(Math.floor(ratio * 1000) / 1000).toFixed(3)} × (${gigabytes} GB: increment ${middle("increment")}, full ${middle("full")})`,
    holds: ratio >= least,
    ...(isTry ? { isPartial: true } : {}),
  };
}

function toMegabytes(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e6).toFixed(0)} MB/s`;
}

async function overwrite(vm: ExactVm, sizeMiB: number, seed: number): Promise<void> {
  const job = ["--rw=write", "--bs=1m", `--size=${sizeMiB}m`, `--randseed=${seed}`];
  await runInGuest(vm.exec, 'fio "$@"', planFio("/dev/vdb", job));
}

async function measureFull(vm: ExactVm, scratch: string): Promise<number> {
  const directory = join(scratch, "full");
  await mkdir(directory);
  {
    await using protection = await protectVm({ ...vm, directory });
    const rate = await measureRate(protection, "full");
    await rm(directory, { recursive: true });
    return rate;
  }
}

async function measureRate(
  protection: Protection,
  wanted: "full" | "snapshot-difference",
): Promise<number> {
  const { manifest, durationMs } = await protection.backUp({ consistency: "crash" });
  const tracking = manifest.disks.find(({ name }) => name === "vdb")?.tracking;
  if (tracking !== wanted) throw new Error(`the backup was "${tracking ?? "none"}"`);
  const newBytes = manifest.disks.reduce((sum, disk) => sum + disk.newBytes, 0);
  return newBytes / (durationMs / 1000);
}
