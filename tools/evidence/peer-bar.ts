/** Bars on the comparison with other programs, which several evidences share. */
import { type PeerFigures, peerOn, peersName } from "../../bench/peers/figures.ts";
import { measurePeers, wholePeersOptions } from "../../bench/peers.ts";
import type { Evidence, EvidenceContext } from "./evidence.ts";
import { readOrMeasure } from "./shared-figures.ts";

/** One bar. */
export interface PeerBar {
  readonly name: string;
  readonly claim: string;
  /** The most that the value may be. */
  readonly most: number;
  /** What the value is, on one line: "of restic's wall time". */
  readonly unit: string;
  /** The value, and what it comes from. */
  read(figures: PeerFigures): { readonly value: number; readonly from: string };
}

/**
 * The evidence of a bar. It measures now, unless the very same files were measured on this machine
 * in the last hour. Options: `--scale=N` and `--rounds=N` for a try, which is not written down.
 */
export function createPeerBar(bar: PeerBar): Evidence {
  const { name, claim, most, unit } = bar;
  return {
    name,
    claim,
    bar: `≤ ${most} ${unit}`,
    run: async (context) => {
      const isTry = Object.keys(context.options).length > 0;
      const figures = isTry
        ? await tryOut(context)
        : await readOrMeasure(peersName, context, () => measurePeers(wholePeersOptions, context));
      const { value, from } = bar.read(figures);
      const figure = `${roundUp(value)} ${unit} (${from})`;
      return { figure, holds: value <= most, ...(isTry ? { isPartial: true } : {}) };
    },
  };
}

/** The bar of a full backup of a workload beside another program: on medians of the whole process. */
export function createFullWallBar(
  bar: Pick<PeerBar, "name" | "claim" | "most"> & {
    readonly workload: "D" | "P";
    readonly peer: "restic" | "qemu-img";
  },
): Evidence {
  const { workload, peer, ...rest } = bar;
  return createPeerBar({
    ...rest,
    unit: `of ${peer}'s wall time`,
    read: (figures) => {
      const ours = peerOn(figures, workload, "kluis").full;
      const theirs = peerOn(figures, workload, peer).full;
      const from = `kluis ${toSeconds(ours.wallMs)}, ${peer} ${toSeconds(theirs.wallMs)}`;
      return { value: ours.wallMs / theirs.wallMs, from };
    },
  });
}

/** A number with three digits after the point that is never less than it was. */
export function roundUp(value: number): string {
  return (Math.ceil(value * 1000 - 1e-9) / 1000).toFixed(3);
}

/** Seconds with two digits. */
export function toSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

async function tryOut(context: EvidenceContext): Promise<PeerFigures> {
  const { scale = "1", rounds = "3" } = context.options;
  const options = { ...wholePeersOptions, scale: Number(scale), rounds: Number(rounds) };
  return (await measurePeers(options, context)).figures;
}
