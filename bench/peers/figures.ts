/** What a comparison of programs came to, and the ratios that the bars are about. */
import { present } from "#base/assert.ts";

import type { Cost } from "../measured-process.ts";
import { median } from "../statistics.ts";

/** The name of the file of a whole comparison. */
export const peersName = "peers";

/** One run of one program on one disk. */
export interface PeerRuns {
  readonly full: Cost;
  readonly restore: Cost;
  readonly storedBytes: number;
  readonly increment?: Cost;
  /** How much larger the whole store was after the increment. */
  readonly grownBytes?: number;
}

/** One step in all rounds; each figure is the median of its own kind. */
export interface StepFigures extends Cost {
  readonly runs: readonly Cost[];
}

/** One program on one disk. */
export interface PeerDiskFigures {
  readonly full: StepFigures;
  readonly restore: StepFigures;
  readonly storedBytes: number;
  readonly increment?: StepFigures;
  readonly grownBytes?: number;
}

/** All programs on one disk. */
export interface DiskFigures {
  readonly name: string;
  readonly sizeBytes: number;
  readonly dataBytes: number;
  readonly changedBytes: number;
  readonly peers: Readonly<Record<string, PeerDiskFigures>>;
}

/** A comparison. */
export interface PeerFigures {
  readonly scale: number;
  readonly rounds: number;
  /** Name and version of each program. */
  readonly versions: Readonly<Record<string, string>>;
  readonly disks: readonly DiskFigures[];
}

/** The medians of several runs. */
export function summarize(runs: readonly PeerRuns[]): PeerDiskFigures {
  const increments = runs.flatMap(({ increment }) => increment ?? []);
  const grown = runs.flatMap(({ grownBytes }) => grownBytes ?? []);
  return {
    full: summarizeStep(runs.map(({ full }) => full)),
    restore: summarizeStep(runs.map(({ restore }) => restore)),
    storedBytes: median(runs.map(({ storedBytes }) => storedBytes)),
    ...(increments.length === 0 ? {} : { increment: summarizeStep(increments) }),
    ...(grown.length === 0 ? {} : { grownBytes: median(grown) }),
  };
}

/** The medians of several runs of one step. */
export function summarizeStep(runs: readonly Cost[]): StepFigures {
  return {
    wallMs: median(runs.map(({ wallMs }) => wallMs)),
    cpuMs: median(runs.map(({ cpuMs }) => cpuMs)),
    peakBytes: median(runs.map(({ peakBytes }) => peakBytes)),
    runs,
  };
}

/** One program on one disk; throws where it was not measured. */
export function peerOn(figures: PeerFigures, disk: string, peer: string): PeerDiskFigures {
  const onDisk = figures.disks.find(({ name }) => name === disk);
  return present(onDisk?.peers[peer], `${peer} was measured on ${disk}`);
}

/** The ratios of the bars; those whose programs or disks were left out are missing. */
export function ratiosOf(figures: PeerFigures): Readonly<Record<string, number>> {
  const ratios: Record<string, number> = {};
  for (const { name, changedBytes, peers } of figures.disks) {
    const { kluis, restic, "qemu-img": qemuImg } = peers;
    if (kluis === undefined) continue;
    const add = (what: string, ours: number | undefined, theirs: number | undefined): void => {
      if (ours !== undefined && theirs !== undefined) ratios[`${what} ${name}`] = ours / theirs;
    };
    add("full wall kluis / restic,", kluis.full.wallMs, restic?.full.wallMs);
    add("full wall kluis / qemu-img,", kluis.full.wallMs, qemuImg?.full.wallMs);
    add("stored bytes kluis / restic,", kluis.storedBytes, restic?.storedBytes);
    add("restore wall kluis / restic,", kluis.restore.wallMs, restic?.restore.wallMs);
    add("increment wall kluis / restic,", kluis.increment?.wallMs, restic?.increment?.wallMs);
    add("increment growth / changed,", kluis.grownBytes, changedBytes || undefined);
  }
  return ratios;
}
