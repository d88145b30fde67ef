/**
 * A process that backs a disk up again and again until it has written all points or is killed:
 *
 *   node vault-writer.ts ROOT CACHE SEED WRITER POINTS
 *
 * Prints `ready`, waits for a line on standard input, and says `ack NUMBER` by one write(2) for
 * each point when it is committed.
 */
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";

import { openFileStore } from "#drivers/store/file-store.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { backUp, type KeptPoint } from "#testing/vault-points.ts";
import { disksOf } from "./writer-disks.ts";

async function main(args: readonly string[]): Promise<void> {
  const [root = "", cacheDirectory = "", seed = "", writer = "", points = "0"] = args;
  const store = await openFileStore(root, { create: true });
  await using vault = await openTestVault({ store, cacheDirectory });
  writeSync(1, "ready\n");
  for await (const _ of createInterface({ input: process.stdin })) break;
  let base: KeptPoint | undefined;
  let number = 0;
  for (const disk of disksOf(seed, writer)) {
    if (number === Number(points)) break;
    number++;
    base = await backUp(vault, { itemId: writer, number, disks: [disk], ...(base && { base }) });
    writeSync(1, `ack ${number}\n`);
  }
}

await main(process.argv.slice(2));
