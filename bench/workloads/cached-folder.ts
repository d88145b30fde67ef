/** Folders below .cache/bench that are made once and kept. */
import { mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { isErrnoException } from "../errno.ts";
import { benchFolder } from "../folders.ts";

/** Lies in a folder that is complete; holds what its maker returned. */
const stampName = "workload.json";

/**
 * The folder `name`, made by `make` in an empty one if it is not there. What `make` returns is kept
 * with it, as JSON; `make` leaves everything durable. A maker that fails leaves nothing.
 */
export async function openCachedFolder<Facts>(
  name: string,
  make: (folder: string) => Promise<Facts>,
): Promise<{ readonly folder: string; readonly facts: Facts }> {
  const folder = join(benchFolder, name);
  const known = await readStamp(folder);
  if (known !== undefined) return { folder, facts: JSON.parse(known) as Facts };
  const draft = `${folder}.${process.pid}.tmp`;
  await rm(folder, { recursive: true, force: true });
  await mkdir(draft, { recursive: true });
  try {
    const facts = await make(draft);
    await writeFile(join(draft, stampName), `${JSON.stringify(facts, undefined, 2)}\n`);
    await rename(draft, folder);
    return { folder, facts };
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/** Makes one file durable. */
export async function syncFile(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function readStamp(folder: string): Promise<string | undefined> {
  try {
    return await readFile(join(folder, stampName), "utf8");
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}
