/**
 * Compares rewrite rules on a model of a 1 GiB disk: what increments store, and how far the newest
 * point falls to pieces. `node bench/rewrite-rule.ts [--json]`; about two minutes.
 */
import { constants, zstdCompressSync } from "node:zlib";

import { concatBytes } from "#base/bytes.ts";
import { frameBytesMax, pageBytes } from "#formats/geometry.ts";
import { encodeLeaf } from "#formats/map-node.ts";
import { DiskModel, leafPages, type Fragmentation } from "./rewrite-rule/disk-model.ts";
import { budgetRule, fixedRule, noRule, sweepRule, type NamedRule } from "./rewrite-rule/rules.ts";
import { createWorkload, workloadNames, type WorkloadName } from "./rewrite-rule/workloads.ts";

const diskPages = 262_144;
const seed = 20_240_607;
const measuredAt = [60, 365];

/** One row: a workload under a rule after so many increments. */
export interface RuleRow extends Fragmentation {
  readonly workload: WorkloadName;
  readonly rule: string;
  readonly blocksPerFrame: number;
  readonly increments: number;
  /** Data pages stored for each changed page: over all increments, and in the worst. */
  readonly storedMean: number;
  readonly storedWorst: number;
  /** Bytes of the map's leaves that the last increment stored, for each changed byte: plain and as zstd. */
  readonly leafShare: number;
  readonly leafShareZstd: number;
}

/** Runs one workload under one rule. */
export function measureRule(
  workload: WorkloadName,
  rule: NamedRule,
  blocksPerFrame: number,
): readonly RuleRow[] {
  const disk = new DiskModel(diskPages, blocksPerFrame);
  const next = createWorkload(workload, diskPages, seed);
  const chooseWindows = rule.create();
  const rows: RuleRow[] = [];
  let changedPages = 0;
  let storedPages = 0;
  let storedWorst = 0;
  for (let increments = 1; increments <= Math.max(...measuredAt); increments++) {
    const changed = next();
    const stored = disk.store(changed, chooseWindows(disk, changed));
    changedPages += changed.length;
    storedPages += stored;
    storedWorst = Math.max(storedWorst, stored / changed.length);
    if (!measuredAt.includes(increments)) continue;
    const leaves = encodeLeaves(disk, changed);
    const changedBytes = changed.length * pageBytes;
    rows.push({
      workload,
      rule: rule.name,
      blocksPerFrame,
      increments,
      storedMean: storedPages / changedPages,
      storedWorst,
      leafShare: leaves.byteLength / changedBytes,
      leafShareZstd: compressedBytes(leaves) / changedBytes,
      ...disk.measure(),
    });
  }
  return rows;
}

/** The leaves that an increment stores, one after the other as in their frames. */
function encodeLeaves(disk: DiskModel, changed: readonly number[]): Uint8Array {
  const leaves = new Set(changed.map((page) => Math.floor(page / leafPages)));
  return concatBytes([...leaves].map((leaf) => encodeLeaf(disk.leafAt(leaf))));
}

/** Bytes after zstd as the vault uses it, frame by frame. */
function compressedBytes(plain: Uint8Array): number {
  const params = { [constants.ZSTD_c_compressionLevel]: 1 };
  let sum = 0;
  for (let at = 0; at < plain.byteLength; at += frameBytesMax) {
    sum += zstdCompressSync(plain.subarray(at, at + frameBytesMax), { params }).byteLength;
  }
  return sum;
}

function printRows(rows: readonly RuleRow[]): void {
  console.table(
    rows.map((row) => ({
      workload: row.workload,
      rule: row.rule,
      "blocks/frame": row.blocksPerFrame,
      after: row.increments,
      "stored mean": round(row.storedMean, 2),
      worst: round(row.storedWorst, 2),
      leaves: round(row.leafShare, 2),
      zstd: round(row.leafShareZstd, 2),
      decoded: round(row.decoded, 2),
      "frames/4 MiB": round(row.framesPerSegment, 0),
      max: row.framesPerSegmentMax,
      "set MiB": round(row.workingSetMiB, 0),
      pieces: round(row.pieces, 1),
      "95 %": row.pieces95,
      most: row.piecesMax,
    })),
  );
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

/** The command; see the file's head. */
export function runRewriteRuleBench(): void {
  const rules = [
    noRule,
    ...[8, 16, 32, 48].map(fixedRule),
    budgetRule(0.4),
    sweepRule(0.15, 40),
    sweepRule(0.2, 24),
    sweepRule(0.2, 40),
    sweepRule(0.25, 40),
    sweepRule(0.4, 24),
    sweepRule(0.4, 40),
    sweepRule(0.5, 40),
  ];
  const rows = workloadNames.flatMap((workload) =>
    rules.flatMap((rule) => measureRule(workload, rule, 1)),
  );
  rows.push(...[noRule, sweepRule(0.15, 40)].flatMap((rule) => measureRule("P", rule, 4)));
  if (process.argv.includes("--json")) console.log(JSON.stringify(rows, undefined, 2));
  else printRows(rows);
}

if (import.meta.main) runRewriteRuleBench();
