/** Backs up the same disk as two protected items of one vault. */
import { storedBytesOf } from "../bench/stored-bytes.ts";
import { openWorkloadP } from "../bench/workloads/workload-p.ts";
import { createWorld } from "../test/e2e/cli.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const shareMost = 0.001;

/** Through the CLI, on workload P. Option: `--scale=N` for a try. */
export const evidence: Evidence = {
  name: "dedup",
  claim: "what one item of a vault has stored, no other item stores again",
  bar: `the second item adds ≤ ${shareMost} of what the first one added`,
  run: async ({ options, signal }) => {
    const scale = Number(options["scale"] ?? 1);
    const { before } = await openWorkloadP({ scale }, signal);
    await using world = await createWorld();
    const place = world.at("vault");
    const empty = await storedBytesOf(place);
    await world.backup(before, ["--item", "first"]);
    const first = (await storedBytesOf(place)) - empty;
    await world.backup(before, ["--item", "second"]);
    const second = (await storedBytesOf(place)) - empty - first;
    return {
      figure: `the second item added ${second} B, the first one ${first} B`,
      holds: second <= shareMost * first,
      ...(scale === 1 ? {} : { isPartial: true }),
    };
  },
};
