/**
 * Goal: whatever packs, map packs and index segments are gone, cut or changed, the next backup is whole,
 * and every older point that the same blocks make whole is so again; nothing ever reads back wrong.
 * Method: seeded rounds on a disk in memory; each takes an increment from exact changes, damages some
 * objects, takes another, and compares every point with the copies that were kept, and what
 * verification says of it.
 */
import { test } from "node:test";

import { runHealRound } from "./heal-round.ts";

const rounds = process.env["KLUIS_LONG"] === "1" ? 200 : 4;

for (let round = 0; round < rounds; round++) {
  test(`heal model: the next backup is whole, and heals what it can, round ${round}`, async () => {
    await runHealRound(`heal model ${round}`);
  });
}
