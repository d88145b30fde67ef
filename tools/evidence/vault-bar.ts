/** Bars on the vault of 60 recovery points beside restic, which several evidences share. */
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
import { readOrMeasure } from "./shared-figures.ts";

/**
 * The evidence that a step takes at most so much of restic's wall time, both where pages change anywhere,
 * as in workload P, and where they change in runs. Bars on a run of a quarter of an hour share it.
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
    bar: `≤ ${most} of restic's wall time, with scattered pages and with runs`,
    run: async (context) => {
      const isTry = Object.keys(context.options).length > 0;
      const figures = isTry
        ? await tryOut(context)
        : await readOrMeasure(vaultName, context, () => measureVault(wholeVaultOptions, context));
      const ratios = vaultRatios(figures, step);
      const text = figures.vaults.map(({ changes, peers }) => {
        const times = Object.entries(peers).map(
          ([peer, measured]) => `${peer} ${toSeconds(measured[step].wallMs)}`,
        );
        return `${changes} ${roundUp(ratios[changes])} (${times.join(", ")})`;
      });
      const holds = Object.values(ratios).every((ratio) => ratio <= most);
      return { figure: text.join("; "), holds, ...(isTry ? { isPartial: true } : {}) };
    },
  };
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
