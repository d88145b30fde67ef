/** Compares reads of a guest from a disk of one file with those from as many layers as there may be. */
import { layersMax } from "#ports/hypervisor.ts";

import { median } from "../bench/statistics.ts";
import { runInGuest } from "../lab/guest.ts";
import { planFio } from "../lab/plan-fio.ts";
import { createExactVm, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import { readLatencyP99 } from "../test/vm/guest-latency.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { roundUp } from "../tools/evidence/peer-bar.ts";

const most = 1.5;
const dataDiskMiB = 256;
const wholeRuns = 7;
const readSeconds = 4;
/** Written into each layer, anywhere, so that every layer has a part of what is read. */
const layerBytes = 4 * 1024 * 1024;

/** Raw image, 4 KiB pages, past the guest's cache. Options for a try: `--runs=N`, `--layers=N`. */
export const evidence: Evidence = {
  name: "read-at-cap",
  claim: "a disk of as many layers as there may be is read hardly slower than one file",
  bar: `p99 of random reads at ${layersMax} files ≤ ${most} × that of one, medians of ${wholeRuns} runs`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const runs = Number(context.options["runs"] ?? wholeRuns);
  const layers = Number(context.options["layers"] ?? layersMax);
  await using vm = await createExactVm("qemu", dataDiskMiB);
  const { hypervisor, vmId, exec } = vm;
  await hypervisor.start(vmId);
  await runInGuest(exec, "umount /data/vdb");
  await writeInGuest(exec, ["--rw=write", "--bs=1m", `--size=${dataDiskMiB}m`, "--randseed=1"]);
  const before = await measure(vm, runs, context);
  for (let layer = 1; layer < layers; layer += 1) {
    await hypervisor.takeSnapshot(vmId, { consistency: "crash", freezeBudgetMs: 1000 });
    const job = ["--rw=randwrite", "--bs=4k", `--size=${dataDiskMiB}m`, `--io_size=${layerBytes}`];
    await writeInGuest(exec, [...job, `--randseed=${layer + 1}`]);
  }
  const space = (await hypervisor.readSpace(vmId)).find(({ name }) => name === "vdb");
  if (space?.layers !== layers) throw new Error(`${space?.layers} files instead of ${layers}`);
  const atCap = await measure(vm, runs, context);
  await hypervisor.detach(vmId);
  const after = await measure(vm, runs, context);
  const unchained = median([...before, ...after]);
  const ratio = median(atCap) / unchained;
  const isTry = runs !== wholeRuns || layers !== layersMax;
  return {
    figure: `${roundUp(ratio)} × (${layers} files ${median(atCap).toFixed(0)} µs, one file ${unchained.toFixed(0)} µs: before ${median(before).toFixed(0)}, detached ${median(after).toFixed(0)})`,
    holds: ratio <= most,
    ...(isTry ? { isPartial: true } : {}),
  };
}

async function writeInGuest(exec: ExactVm["exec"], job: readonly string[]): Promise<void> {
  await runInGuest(exec, 'fio "$@"', planFio("/dev/vdb", job));
}

async function measure(
  vm: ExactVm,
  runs: number,
  context: EvidenceContext,
): Promise<readonly number[]> {
  const values: number[] = [];
  for (let index = 0; index < runs; index += 1) {
    context.signal.throwIfAborted();
    values.push(await readLatencyP99(vm.exec, "/dev/vdb", readSeconds));
  }
  context.log(values.map((value) => value.toFixed(0)).join(" "));
  return values;
}
