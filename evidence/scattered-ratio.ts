/**
 * A guest changes as much of a disk in one run as in single pages anywhere on it, in turns; each change
 * is backed up as one increment.
 */
import { median } from "../bench/statistics.ts";
import { storedBytesOf } from "../bench/stored-bytes.ts";
import { runInGuest } from "../lab/guest.ts";
import { planFio } from "../lab/plan-fio.ts";
import { createExactVm, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import { protectVm, type Protection } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { roundUp } from "../tools/evidence/peer-bar.ts";

const wallMost = 4;
const bytesMost = 1.3;
const MiB = 1024 * 1024;
const dataDiskMiB = 1024;
const wholeChangedMiB = 64;
const wholeRounds = 5;
const device = "/dev/vdb";

const patterns = ["contiguous", "scattered"] as const;
type Pattern = (typeof patterns)[number];

/** What one increment took. */
interface Cost {
  readonly wallMs: number;
  readonly grownBytes: number;
}

/** The whole job counts, from the request to the end of expiry. Options for a try: `--rounds=N`, `--mib=N`. */
export const evidence: Evidence = {
  name: "scattered-ratio",
  claim: "what an increment costs depends on how much changed, hardly on where",
  bar: `scattered in 4 KiB pages ≤ ${wallMost} × the wall time and ≤ ${bytesMost} × the bytes of one run, medians`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const changedMiB = Number(context.options["mib"] ?? wholeChangedMiB);
  await using vm = await createExactVm("qemu", dataDiskMiB);
  await using protection = await protectVm(vm);
  await vm.hypervisor.start(vm.vmId);
  await runInGuest(vm.exec, "umount /data/vdb");
  await write(vm, ["--rw=write", "--bs=1m", `--size=${dataDiskMiB}m`, "--randseed=1"]);
  await protection.backUp({ consistency: "crash" });
  const costs: Record<Pattern, Cost[]> = { contiguous: [], scattered: [] };
  for (let round = 0; round < rounds; round += 1) {
    for (const pattern of patterns) {
      context.signal.throwIfAborted();
      const seed = 2 + round * patterns.length + patterns.indexOf(pattern);
      await write(vm, planChange(pattern, { sizeBytes: changedMiB * MiB, seed }));
      const cost = await measure(protection);
      costs[pattern].push(cost);
      context.log(`${pattern}: ${cost.wallMs.toFixed(0)} ms, ${cost.grownBytes} B`);
    }
  }
  const middle = (pattern: Pattern, of: keyof Cost): number =>
    median(costs[pattern].map((cost) => cost[of]));
  const wall = middle("scattered", "wallMs") / middle("contiguous", "wallMs");
  const bytes = middle("scattered", "grownBytes") / middle("contiguous", "grownBytes");
  const from = patterns.map(
    (pattern) =>
      `${pattern} ${middle(pattern, "wallMs").toFixed(0)} ms, ${middle(pattern, "grownBytes").toFixed(0)} B`,
  );
  const isTry = rounds !== wholeRounds || changedMiB !== wholeChangedMiB;
  return {
    figure: `${changedMiB} MiB scattered: ${roundUp(wall)} × the wall time, ${roundUp(bytes)} × the bytes (${from.join("; ")})`,
    holds: wall <= wallMost && bytes <= bytesMost,
    ...(isTry ? { isPartial: true } : {}),
  };
}

function planChange(
  pattern: Pattern,
  change: { readonly sizeBytes: number; readonly seed: number },
): readonly string[] {
  const { sizeBytes, seed } = change;
  const common = ["--bs=4k", `--randseed=${seed}`];
  if (pattern === "scattered") {
    return [...common, "--rw=randwrite", `--size=${dataDiskMiB}m`, `--io_size=${sizeBytes}`];
  }
  const places = (dataDiskMiB * MiB) / sizeBytes;
  const offset = (seed % places) * sizeBytes;
  return [...common, "--rw=write", `--offset=${offset}`, `--size=${sizeBytes}`];
}

async function write(vm: ExactVm, job: readonly string[]): Promise<void> {
  await runInGuest(vm.exec, 'fio "$@"', planFio(device, job));
}

async function measure(protection: Protection): Promise<Cost> {
  const before = await storedBytesOf(protection.storePath);
  const job = await protection.runJob({ consistency: "crash" });
  if (job.transfer.status !== "Completed") throw new Error(`the transfer: ${job.transfer.status}`);
  const tracking = job.transfer.outcome.manifest.disks.map((disk) => disk.tracking);
  if (tracking.some((each) => each !== "snapshot-difference")) throw new Error(tracking.join());
  const grownBytes = (await storedBytesOf(protection.storePath)) - before;
  return { wallMs: job.durationMs, grownBytes };
}
