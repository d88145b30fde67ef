/**
 * Who reads which snapshot: a file per reader with the identity of its process, so that layers are
 * not merged under a reader, and a reader that died is not waited for.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import { present } from "#base/assert.ts";
import { toHex } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";
import {
  isProcessAlive,
  readProcessIdentity,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import { isObject } from "#formats/qmp-wire.ts";
import { writeDurably } from "./durable-file.ts";

const TOKEN_BYTES = 8;

/** The mark of a reader; disposing takes it away. */
export class ReaderLease implements AsyncDisposable {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { force: true });
  }
}

/** Marks that this process reads a snapshot; the caller holds the VM's lock. */
export async function createReaderLease(
  readersDirectory: string,
  snapshotId: string,
): Promise<ReaderLease> {
  const owner = present(await readProcessIdentity(process.pid), "this process has an identity");
  const path = join(readersDirectory, `${toHex(systemRandom.bytes(TOKEN_BYTES))}.json`);
  await writeDurably(path, Buffer.from(JSON.stringify({ owner, snapshotId })));
  return new ReaderLease(path);
}

/** Ids of the snapshots that living processes read; the caller holds the VM's lock. */
export async function listReadSnapshots(readersDirectory: string): Promise<ReadonlySet<string>> {
  const ids = new Set<string>();
  for (const name of await readdir(readersDirectory)) {
    const path = join(readersDirectory, name);
    const id = name.endsWith(".json") ? await readLiving(path) : undefined;
    if (id === undefined) await rm(path, { force: true });
    else ids.add(id);
  }
  return ids;
}

/** The snapshot that a living process reads; `undefined` where it is dead or has just ended. */
async function readLiving(path: string): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const value: unknown = JSON.parse(text);
  if (!isObject(value) || !isObject(value["owner"])) return undefined;
  const isAlive = await isProcessAlive(value["owner"] as unknown as ProcessIdentity);
  return isAlive ? String(value["snapshotId"]) : undefined;
}
