/** Removes, cuts and changes objects of a vault at random, and looks at the backups that follow. */
import { type HealCount, runHealRound } from "../test/model/heal-round.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const roundsDefault = 12;

/** In memory, with exact changes; what is changed within an object is found by a verification first. */
export const evidence: Evidence = {
  name: "heal-backup",
  claim: "the next backup heals what the vault lost, and verification says exactly what is wrong",
  bar: "every backup after damage is whole, every verdict on a point is what reading it back gives",
  run: async ({ options, signal }) => {
    const rounds = Number(options["rounds"] ?? roundsDefault);
    const sum: HealCount = { damaged: 0, backups: 0, verdicts: 0 };
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      const count = await runHealRound(`heal evidence ${round}`);
      sum.damaged += count.damaged;
      sum.backups += count.backups;
      sum.verdicts += count.verdicts;
    }
    return {
      figure: `${sum.damaged} objects damaged, ${sum.backups} backups after that whole, ${sum.verdicts} verdicts right`,
      holds: sum.damaged > 0 && sum.backups === 2 * rounds,
      ...(rounds === roundsDefault ? {} : { isPartial: true }),
    };
  },
};
