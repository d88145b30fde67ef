/** Backs up an image that was written in place, with nothing that tells what changed. */
import { pageBytes } from "#formats/geometry.ts";

import { storedBytesOf } from "../bench/stored-bytes.ts";
import { openWorkloadP } from "../bench/workloads/workload-p.ts";
import { createWorld } from "../test/e2e/cli.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { roundUp } from "../tools/evidence/peer-bar.ts";

const most = 1.15;

/** Through the CLI, on workload P. Option: `--scale=N` for a try. */
export const evidence: Evidence = {
  name: "checksum-fallback",
  claim: "without a snapshot to compare with, only the changed pages are stored all the same",
  bar: `store grows by ≤ ${most} of the changed pages, found by checksum`,
  run: async (context) => {
    const scale = Number(context.options["scale"] ?? 1);
    const { before, after, changedPages } = await openWorkloadP({ scale }, context.signal);
    await using world = await createWorld();
    await world.backup(before, ["--item", "disk"]);
    const bytesBefore = await storedBytesOf(world.at("vault"));
    context.log("the first recovery point is there; now the image that was written in place");
    const { point } = await world.backup(after, ["--item", "disk"]);
    const grown = (await storedBytesOf(world.at("vault"))) - bytesBefore;
    const changed = changedPages * pageBytes;
    const tracking = point.disks[0]?.tracking;
    return {
      figure: `${roundUp(grown / changed)} of ${changedPages} changed pages, tracking "${tracking}"`,
      holds: grown / changed <= most && tracking === "checksum",
      ...(scale === 1 ? {} : { isPartial: true }),
    };
  },
};
