/**
 * A process that meets every limit of a small file system, in a mount namespace of its own, and
 * prints as JSON what the store said. The test that starts it mounts 4 MiB of tmpfs on FOLDER.
 *
 *   node store-limits.ts FOLDER
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { openFileStore } from "#drivers/store/file-store.ts";

/** What the test compares. */
export interface LimitsReport {
  readonly stored: number;
  readonly intact: number;
  readonly full: string;
  readonly leftInTmp: number;
  readonly afterRemove: string;
  readonly otherFileSystem: string;
  readonly readOnlyPut: string;
  readonly readOnlyRemove: string;
  readonly readOnlyCreate: string;
  readonly readOnlyBytes: number;
  readonly readOnlyListed: number;
}

/** The outcome of a call, or the code of its error. */
async function outcomeOf(call: Promise<unknown>): Promise<string> {
  try {
    return String(await call);
  } catch (error) {
    return isKluisError(error) ? error.code : String(error);
  }
}

function mount(...args: string[]): void {
  execFileSync("mount", args, { stdio: "inherit" });
}

async function meetLimits(folder: string): Promise<LimitsReport> {
  const root = `${folder}/store`;
  const store = await openFileStore(root, { create: true });
  const content = new Uint8Array(1024 * 1024).fill(7);
  let stored = 0;
  let full = await outcomeOf(store.put("packs/0", [content]));
  for (; full === "created"; full = await outcomeOf(store.put(`packs/${stored}`, [content])))
    stored++;
  let intact = 0;
  for await (const { name } of store.list("")) {
    if (bytesEqual(await store.get(name), content)) intact++;
  }
  const leftInTmp = readdirSync(`${root}/tmp`).length;
  await store.remove("packs/0");
  const afterRemove = await outcomeOf(store.put("packs/again", [content]));
  mkdirSync(`${root}/elsewhere`);
  mount("-t", "tmpfs", "-o", "size=1m", "none", `${root}/elsewhere`);
  await store.remove("packs/again");
  const otherFileSystem = await outcomeOf(store.put("elsewhere/x", [Uint8Array.of(1)]));
  mount("-o", "remount,ro", folder);
  const readOnlyPut = await outcomeOf(store.put("x", [Uint8Array.of(1)]));
  const readOnlyRemove = await outcomeOf(store.remove("packs/1"));
  const readOnlyCreate = await outcomeOf(openFileStore(`${folder}/other`, { create: true }));
  const reader = await openFileStore(root);
  const readOnlyBytes = (await reader.get("packs/1")).byteLength;
  let readOnlyListed = 0;
  for await (const info of reader.list("packs/")) readOnlyListed += info.sizeBytes > 0 ? 1 : 0;
  return {
    stored,
    intact,
    full,
    leftInTmp,
    afterRemove,
    otherFileSystem,
    readOnlyPut,
    readOnlyRemove,
    readOnlyCreate,
    readOnlyBytes,
    readOnlyListed,
  };
}

console.log(JSON.stringify(await meetLimits(process.argv[2] ?? "")));
