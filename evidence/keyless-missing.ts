/** Damages each object of a small vault in each way in turn, and checks without a key. */
import { countKeyless } from "../test/faults/keyless-damage.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const roundsDefault = 5;

/** In memory. The newest part of the inventory is the one object whose removal nothing can show. */
export const evidence: Evidence = {
  name: "keyless-missing",
  claim:
    "a check without a key names every object that is missing, cut, longer, changed or replaced",
  bar: "all of them, and no other object with them",
  run: async ({ options, signal }) => {
    const rounds = Number(options["rounds"] ?? roundsDefault);
    let cases = 0;
    const unnamed: string[] = [];
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted();
      const count = await countKeyless(`keyless evidence ${round}`);
      cases += count.cases;
      unnamed.push(...count.unnamed);
    }
    return {
      figure: `${cases} cases, ${unnamed.length} not named`,
      holds: cases > 0 && unnamed.length === 0,
      ...(rounds === roundsDefault ? {} : { isPartial: true }),
    };
  },
};
