/**
 * The block index at 20 million entries (`--entries=84000000`: 20 TiB of windows): lookups, memory
 * and opening, as docs/adr/0004-block-index.md says.
 */
import { describeIndex, measureIndex } from "../bench/index.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const entriesByDefault = 20_000_000;
const lookupsPerSecondLeast = 1_000_000;
const openMsMost = 2000;
const mebibyte = 1024 * 1024;
/** 24 MiB a TiB of 256 KiB windows. */
const bytesPerEntryMost = 6;
const fixedBytesMost = 64 * mebibyte;

/** Fast enough to ask for every block, and small enough for a hypervisor host. */
export const evidence: Evidence = {
  name: "index-speed",
  claim: "the block index answers fast, opens fast and keeps to its memory at 20 million entries",
  bar: "misses and hits in order ≥ 1 M/s, memory ≤ 64 MiB + 6 B an entry, warm open ≤ 2 s",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const entries = Number(context.options["entries"] ?? entriesByDefault);
  const figures = await measureIndex(entries, context.scratch);
  for (const line of describeIndex(figures).split("\n")) context.log(line);
  const { miss, hitInOrder, memoryBytes, residentBytes, openWarmMs } = figures;
  const bytesMost = fixedBytesMost + bytesPerEntryMost * entries;
  const toText = (rate: number): string => (rate / 1e6).toFixed(1);
  return {
    figure:
      `${entries / 1e6} M entries: misses ${toText(miss.perSecond)} M/s, ` +
      `hits in order ${toText(hitInOrder.perSecond)} M/s, ` +
      `memory ${Math.round(memoryBytes / mebibyte)} of ${Math.round(bytesMost / mebibyte)} MiB, ` +
      `warm open ${Math.round(openWarmMs)} ms`,
    holds:
      Math.min(miss.perSecond, hitInOrder.perSecond) >= lookupsPerSecondLeast &&
      Math.max(memoryBytes, residentBytes) <= bytesMost &&
      openWarmMs <= openMsMost,
  };
}
