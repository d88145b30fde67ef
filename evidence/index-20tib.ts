/**
 * The block index of 20 TiB of unique data in windows of 256 KiB, with the nodes of its maps: synthetic
 * entries, real cache files. `--entries=N` for a try; docs/adr/0004-block-index.md.
 */
import { describeIndex, measureIndex } from "../bench/index.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const tebibytes = 20;
const windowsPerTebibyte = 2 ** 22;
/** Entries of map nodes beside each window's: a leaf for 8 of them, and what is above. */
const nodesPerWindow = 0.13;
const mebibyte = 1024 * 1024;
const fixedBytesMost = 64 * mebibyte;
const bytesPerTebibyteMost = 24 * mebibyte;
const lookupsPerSecondLeast = 1_000_000;
const openMsMost = 2000;
const pageBlockBytesMost = 6;

/** Needs 3.6 GB in the temporary folder. */
export const evidence: Evidence = {
  name: "index-20tib",
  claim: "the block index of 20 TiB is small, fast, and open at once",
  bar: "memory ≤ 64 MiB + 24 MiB a TiB, a page-run block ≤ 6 B of it, misses and hits in order ≥ 1 M/s, warm open ≤ 2 s",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const whole = 2 * Math.round((tebibytes * windowsPerTebibyte * (1 + nodesPerWindow)) / 2);
  const entries = Number(context.options["entries"] ?? whole);
  const figures = await measureIndex(entries, context.scratch);
  for (const line of describeIndex(figures).split("\n")) context.log(line);
  const { miss, hitInOrder, hitRandom, hitRandomCold, rebuild } = figures;
  const { pageBlockTableBytes, pageBlockFileBytes, openWarmMs } = figures;
  const memoryBytes = Math.max(figures.memoryBytes, figures.residentBytes);
  const bytesMost = fixedBytesMost + (entries / whole) * tebibytes * bytesPerTebibyteMost;
  const millions = (rate: number): string => (rate / 1e6).toFixed(1);
  const thousands = (rate: number): string => (rate / 1e3).toFixed(1);
  return {
    figure:
      `${millions(entries)} M entries: memory ${Math.ceil(memoryBytes / mebibyte)} of ` +
      `${Math.floor(bytesMost / mebibyte)} MiB, misses ${millions(miss.perSecond)} M/s, ` +
      `hits in order ${millions(hitInOrder.perSecond)} M/s with the full id checked; ` +
      `random hits ${thousands(hitRandom.perSecond)} k/s, cold ${thousands(hitRandomCold.perSecond)} k/s, ` +
      `warm open ${Math.round(openWarmMs)} ms, rebuild ${millions(rebuild.perSecond)} M/s; ` +
      `a page-run block takes ${pageBlockTableBytes.toFixed(1)} B of memory and ${pageBlockFileBytes.toFixed(1)} B of cache file`,
    holds:
      memoryBytes <= bytesMost &&
      pageBlockTableBytes <= pageBlockBytesMost &&
      Math.min(miss.perSecond, hitInOrder.perSecond) >= lookupsPerSecondLeast &&
      openWarmMs <= openMsMost,
    ...(entries === whole ? {} : { isPartial: true }),
  };
}
