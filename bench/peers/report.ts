/** Figures of a comparison as tables in Markdown, for terminals and for docs/benchmarks.md. */
import { describeStamp, type Stamped } from "../figures.ts";
import {
  type DiskFigures,
  type PeerDiskFigures,
  type PeerFigures,
  ratiosOf,
  type StepFigures,
} from "./figures.ts";

const head = [
  "| program | full: wall s | CPU s | peak MiB | stored MB | restore: wall s | CPU s | peak MiB | increment: wall s | CPU s | peak MiB | growth MB | growth / changed |",
  "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
];

/** All of it as Markdown. */
export function describePeers({ stamp, figures }: Stamped<PeerFigures>): string {
  const { rounds, scale, versions, disks } = figures;
  const ratios = Object.entries(ratiosOf(figures)).map(
    ([name, ratio]) => `| ${name} | ${ratio.toFixed(3)} |`,
  );
  return [
    `${describeStamp(stamp)}; median of ${rounds}` +
      `${scale === 1 ? "" : `, at scale ${scale}: NOT the workloads of the bars`}.`,
    `Programs: ${Object.values(versions).join(", ")}.`,
    ...disks.flatMap((disk) => ["", describeDisk(disk), "", ...describeRows(disk)]),
    "",
    "| ratio | |",
    "|---|---:|",
    ...ratios,
  ].join("\n");
}

function describeDisk(disk: DiskFigures): string {
  const { name, sizeBytes, dataBytes, changedBytes } = disk;
  const changed = changedBytes === 0 ? "" : `, then ${megabytes(changedBytes)} MB changed`;
  return `**Workload ${name}**: ${megabytes(sizeBytes)} MB, of which ${megabytes(dataBytes)} MB are data${changed}.`;
}

function describeRows(disk: DiskFigures): readonly string[] {
  return [
    ...head,
    ...Object.entries(disk.peers).map(([name, peer]) => `| ${row(name, peer, disk).join(" | ")} |`),
  ];
}

function row(name: string, peer: PeerDiskFigures, disk: DiskFigures): readonly string[] {
  const { full, restore, increment, storedBytes, grownBytes } = peer;
  const growth =
    grownBytes === undefined
      ? ["–", "–"]
      : [megabytes(grownBytes), (grownBytes / disk.changedBytes).toFixed(2)];
  return [
    name,
    ...step(full),
    megabytes(storedBytes),
    ...step(restore),
    ...step(increment),
    ...growth,
  ];
}

function step(figures: StepFigures | undefined): readonly string[] {
  if (figures === undefined) return ["–", "–", "–"];
  const { wallMs, cpuMs, peakBytes } = figures;
  return [
    (wallMs / 1000).toFixed(2),
    (cpuMs / 1000).toFixed(2),
    (peakBytes / (1024 * 1024)).toFixed(0),
  ];
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
