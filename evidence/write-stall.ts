/**
 * A guest writes and syncs all the time while it is backed up, from before the backup until after it. The
 * longest time between two writes that were done, by the guest's monotonic clock, is compared with that of
 * a run of the same length without a backup, just after it.
 */
import { systemClock } from "#base/clock.ts";

import { createExactVm, type DriverName, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import {
  endFsyncWriter,
  makeDirty,
  startFsyncWriter,
  type WriteGaps,
} from "../test/vm/guest-latency.ts";
import { protectVm, type Protection } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRuns = 10;
const secondsMost = 0.5;
const dataDiskMiB = 512;
const dirtyMiB = 100;
/** The guest writes as long before and after a backup. */
const settleMs = 1000;
/** A writer that nobody ends ends by itself. */
const writerSecondsMax = 120;
const writerPath = "/data/vdb/gaps";
const dirtyPath = "/data/vdb/dirty";

const drivers = ["qemu", "libvirt"] as const;
const loads = ["fsync", "fsync and 100 MiB dirty"] as const;
type Load = (typeof loads)[number];

/** A run with a backup and the one without just after it. */
interface Pair {
  readonly control: WriteGaps;
  readonly backup: WriteGaps;
  readonly backupMs: number;
}

/** Options for a try: `--runs=N`, `--driver=NAME`. */
export const evidence: Evidence = {
  name: "write-stall",
  claim: "a guest that writes and syncs hardly notices its backup",
  bar: `longest gap between durable writes less the control's ≤ ${secondsMost} s in each of ${wholeRuns} runs, for each driver, with and without 100 MiB of dirty cache`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const { runs = String(wholeRuns), driver: wanted } = context.options;
  const figures: string[] = [];
  let isShort = true;
  for (const driver of drivers) {
    if (wanted !== undefined && wanted !== driver) continue;
    for (const load of loads) {
      const pairs = await measure({ driver, load, runs: Number(runs) }, context);
      isShort &&= pairs.every((pair) => stallMs(pair) <= secondsMost * 1000);
      figures.push(`${driver}, ${load}: ${describe(pairs)}`);
      context.log(figures.at(-1) ?? "");
    }
  }
  const isTry = Number(runs) < wholeRuns || wanted !== undefined;
  return { figure: figures.join("; "), holds: isShort, ...(isTry ? { isPartial: true } : {}) };
}

function stallMs({ backup, control }: Pair): number {
  return Math.max(0, backup.longestMs - control.longestMs);
}

function describe(pairs: readonly Pair[]): string {
  const most = (values: readonly number[]): string => (Math.max(...values) / 1000).toFixed(3);
  const stall = most(pairs.map(stallMs));
  const gap = most(pairs.map(({ backup }) => backup.longestMs));
  const control = most(pairs.map(({ control: { longestMs } }) => longestMs));
  const p99 = `p99 ${most(pairs.map(({ backup }) => backup.p99Ms))} s, without ${most(pairs.map(({ control: { p99Ms } }) => p99Ms))} s`;
  return `${stall} s at most in ${pairs.length} runs (gap ${gap} s, without a backup ${control} s; ${p99})`;
}

async function measure(
  plan: { readonly driver: DriverName; readonly load: Load; readonly runs: number },
  context: EvidenceContext,
): Promise<readonly Pair[]> {
  const { driver, load, runs } = plan;
  await using vm = await createExactVm(driver, dataDiskMiB);
  await using protection = await protectVm(vm);
  await vm.hypervisor.start(vm.vmId);
  // The first backup puts the extension into the guest and sends everything.
  await protection.backUp();
  const pairs: Pair[] = [];
  for (let round = 0; round < runs; round += 1) {
    context.signal.throwIfAborted();
    let backupMs = 0;
    const backup = await observe(vm, load, async () => {
      backupMs = await backUp(protection);
    });
    const control = await observe(vm, load, () => systemClock.sleep(backupMs));
    // The freeze of a backup that outlasts the writer may be no gap.
    if (settleMs + backupMs > backup.lastWriteMs) {
      const took = `the backup ended after ${(settleMs + backupMs).toFixed(0)} ms`;
      throw new Error(`${took}, the writer after ${backup.lastWriteMs} ms`);
    }
    const pair = { control, backup, backupMs };
    pairs.push(pair);
    context.log(
      `${driver}, ${load}: ${backup.longestMs} ms, without ${control.longestMs} ms; p99 ${backup.p99Ms} ms, without ${control.p99Ms} ms; backup ${backupMs.toFixed(0)} ms`,
    );
  }
  return pairs;
}

async function backUp(protection: Protection): Promise<number> {
  const { consistency, consistencyReason, durationMs } = await timedBackUp(protection);
  if (consistency !== "file-system") throw new Error(`not frozen: ${consistencyReason}`);
  return durationMs;
}

async function timedBackUp(protection: Protection) {
  const startMs = systemClock.monotonicMs();
  const { manifest } = await protection.backUp();
  const { consistency, consistencyReason = "" } = manifest;
  return { consistency, consistencyReason, durationMs: systemClock.monotonicMs() - startMs };
}

/** The gaps of one run of the writer, during which `work` is done. */
async function observe(vm: ExactVm, load: Load, work: () => Promise<void>): Promise<WriteGaps> {
  if (load !== "fsync") await makeDirty(vm.exec, dirtyPath, dirtyMiB);
  const pid = await startFsyncWriter(vm.exec, writerPath, writerSecondsMax);
  await systemClock.sleep(settleMs);
  await work();
  await systemClock.sleep(settleMs);
  return await endFsyncWriter(vm.exec, pid);
}
