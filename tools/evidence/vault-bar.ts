/** Bars on the vault of 60 recovery points beside restic, which several evidences share. */
import { readFreshFigures } from "../../bench/figures.ts";
import {
  measureVault,
  type VaultFigures,
  vaultName,
  vaultRatios,
  type VaultStep,
  wholeVaultOptions,
} from "../../bench/vault.ts";
import type { Evidence, EvidenceContext } from "./evidence.ts";
import { roundUp, toSeconds } from "./peer-bar.ts";

/** A run takes a quarter of an hour, so bars on it share one of the last hour. */
const sharedMsMax = 60 * 60_000;

/**
 * The evidence that a step takes at most so much of restic's wall time where pages change anywhere, as in
 * workload P; what it takes where they change in runs stands beside it. It measures now, unless the very same files were measured on this machine in the last hour.
 * Options: `--scale=N`, `--points=N` and `--rounds=N` for a try, which is not written down.
 */
export function createVaultBar(bar: {
  readonly name: string;
  readonly claim: string;
  readonly step: VaultStep;
  readonly most: number;
}): Evidence {
  const { name, claim, step, most } = bar;
  return {
    name,
    claim,
    bar: `≤ ${most} of restic's wall time, with scattered pages`,
    run: async (context) => {
      const isTry = Object.keys(context.options).length > 0;
      const figures = isTry ? await tryOut(context) : await readOrMeasure(context);
      const ratios = vaultRatios(figures, step);
      const text = figures.vaults.map(({ changes, peers }) => {
        const times = Object.entries(peers).map(
          ([peer, measured]) => `${peer} ${toSeconds(measured[step].wallMs)}`,
        );
        return `${changes} ${roundUp(ratios[changes])} (${times.join(", ")})`;
      });
      const holds = ratios.pages <= most;
      return { figure: text.join("; "), holds, ...(isTry ? { isPartial: true } : {}) };
    },
  };
}

async function readOrMeasure(context: EvidenceContext): Promise<VaultFigures> {
  const { signal } = context;
  const kept = await readFreshFigures<VaultFigures>(vaultName, sharedMsMax, signal);
  if (kept === undefined) return (await measureVault(wholeVaultOptions, context)).figures;
  const minutes = Math.round((Date.now() - kept.stamp.measuredAtMs) / 60_000);
  context.log(`the run of ${minutes} minutes ago, of the same files on this machine`);
  return kept.figures;
}

async function tryOut(context: EvidenceContext): Promise<VaultFigures> {
  const { scale, points, rounds } = context.options;
  const whole = wholeVaultOptions;
  const options = {
    scale: Number(scale ?? whole.scale),
    points: Number(points ?? whole.points),
    rounds: Number(rounds ?? whole.rounds),
  };
  return (await measureVault(options, context)).figures;
}
