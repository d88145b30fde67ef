/**
 * A process that puts objects into a file store until it has put all or is killed, for the tests of
 * this folder. Prints one line per answer, by one write(2) each, so that a trace or a reader of the
 * pipe sees it exactly when the store has promised.
 *
 *   node store-writer.ts named ROOT COUNT BYTES_MAX     COUNT objects named by their SHA-256
 *   node store-writer.ts race ROOT WRITER               each name that it reads from standard input
 */
import { createHash } from "node:crypto";
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";

import { openFileStore } from "#drivers/store/file-store.ts";
import { packName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { SeededRandom } from "#testing/seeded-random.ts";

/** Puts that are under way at once. */
const putsInFlight = 4;

/** Puts objects of up to `bytesMax` random bytes under the names of packs; says `ack NAME`. */
async function putNamed(store: ObjectStore, count: number, bytesMax: number): Promise<void> {
  const random = new SeededRandom(`store writer ${process.pid}`);
  let left = count;
  async function work(): Promise<void> {
    while (left-- > 0) {
      const content = random.bytes(random.integer(0, bytesMax));
      const half = content.byteLength >> 1;
      const name = packName(createHash("sha256").update(content).digest());
      await store.put(name, [content.subarray(0, half), content.subarray(half)]);
      say(`ack ${name}`);
    }
  }
  await Promise.all(Array.from({ length: putsInFlight }, work));
}

/** Puts every name it reads, with content that starts with `writer`; says `created` or `exists`. */
async function putRacing(store: ObjectStore, writer: string): Promise<void> {
  const random = new SeededRandom(`race ${writer}`);
  say("ready");
  for await (const name of createInterface({ input: process.stdin })) {
    const content = Buffer.concat([Buffer.from(`${writer}\n`), random.bytes(20_000)]);
    say(await store.put(name, [content]));
  }
}

function say(line: string): void {
  writeSync(1, `${line}\n`);
}

const [mode, root, first, last] = process.argv.slice(2);
const store = await openFileStore(root ?? "", { create: true });
if (mode === "named") await putNamed(store, Number(first), Number(last));
else await putRacing(store, first ?? "");
