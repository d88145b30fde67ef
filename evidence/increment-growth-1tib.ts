/** Changes 2,621 pages anywhere on a disk of 1 TiB that is mapped all over, with the real engine. */
import { measureTebibyte } from "../bench/tebibyte.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";
import { roundUp } from "../tools/evidence/peer-bar.ts";

const most = 1.6;
const sizeGib = 1024;

/** Every byte of every file counts: pack, map, index, manifest. Option: `--size-gib=N` for a try. */
export const evidence: Evidence = {
  name: "increment-growth-1tib",
  claim: "scattered changes on a full disk of 1 TiB do not drag its map along",
  bar: `≤ ${most} of the changed pages`,
  run: async (context) => {
    const gib = Number(context.options["size-gib"] ?? sizeGib);
    const figures = await measureTebibyte(gib * 2 ** 30, context);
    const { growth, grownBytes, changedBytes } = figures;
    return {
      figure: `${roundUp(growth)} of the changed pages (${grownBytes} B for ${changedBytes} B)`,
      holds: growth <= most,
      ...(gib === sizeGib ? {} : { isPartial: true }),
    };
  },
};
