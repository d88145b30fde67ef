/**
 * A process that backs a disk up again and again, or that deletes points and collects:
 *
 *   node gc-worker.ts backup ROOT SEED WRITER ITEM FIRST POINTS
 *   node gc-worker.ts collect ROOT SEED WRITER
 *
 * Says what it did by one write(2) a line: `ack STATE POINT` for a committed point, `deleted POINT`
 * before a deletion, `collected END` after a collection. A collector goes on until it is killed.
 */
import { writeSync } from "node:fs";

import { isKluisError } from "#base/kluis-error.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import type { Vault } from "#vault/vault.ts";
import { disksOf } from "./writer-disks.ts";

function say(line: string): void {
  writeSync(1, `${line}\n`);
}

async function backUpAll(vault: Vault, args: readonly string[]): Promise<void> {
  const [seed = "", writer = "", itemId = "", first = "0", points = "0"] = args;
  let number = Number(first);
  let state = 0;
  let base: KeptPoint | undefined;
  for (const disk of disksOf(seed, writer)) {
    if (state === Number(points)) return;
    state++;
    let kept: KeptPoint | undefined;
    while (kept === undefined) {
      number++;
      try {
        kept = await backUp(vault, { itemId, number, disks: [disk], ...(base && { base }) });
      } catch (error) {
        if (!isKluisError(error, "BackupFenced")) throw error;
        base = undefined;
        say("fenced");
      }
    }
    base = kept;
    say(`ack ${state} ${kept.manifest.pointId}`);
  }
}

async function collectForEver(vault: Vault, args: readonly string[]): Promise<void> {
  const [seed = "", writer = ""] = args;
  const random = createSeededRandom(`${seed} ${writer}`);
  for (;;) {
    const points = await vault.listPoints();
    const chosen = points.filter((point, at) => points[at + 1]?.item === point.item);
    if (chosen.length > 2) {
      const point = random.pick(chosen);
      say(`deleted ${point.pointId}`);
      await vault.deletePoint(point).catch((error: unknown) => {
        if (!isKluisError(error, "RecoveryPointNotFound")) throw error;
      });
    }
    // Now and then everybody is taken for dead.
    const abandonAfterMs = random.chance(0.3) ? -1 : 60_000;
    const options = { allowMassDeletion: true, unusedShare: 0, abandonAfterMs, waitMs: 3000 };
    const { end } = await vault.collect(options);
    say(`collected ${end}`);
  }
}

async function main([kind, root = "", ...args]: readonly string[]): Promise<void> {
  const store = await openFileStore(root, { create: true });
  await using vault = await openTestVault({ store });
  say("ready");
  await (kind === "backup" ? backUpAll(vault, args) : collectForEver(vault, args));
}

await main(process.argv.slice(2));
