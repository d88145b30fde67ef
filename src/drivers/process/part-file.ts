/** Files in the making, under a name that says who writes them, beside the place where they shall be. */
import { link, lstat, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { toHex } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";
import {
  createPartName,
  foreignPartAgeMs,
  isAbandoned,
  parsePartName,
  type PartSelf,
  readPartWriter,
} from "./part-name.ts";

/** What the name shows of the name that the file shall have: there is room for no more. */
const shownChars = 40;
const tokenBytes = 8;
/** A file of a writer that has ended is removed at once, of one that cannot be looked up later. */
const ages = { deadMs: 0, foreignMs: foreignPartAgeMs };
const pattern = /^\..*\.([0-9a-f-]+)\.kluis-part$/s;

/**
 * A name that nobody uses for what shall become `path` (absolute): `.NAME.TOKEN.kluis-part` in the same
 * folder. Removes from there what killed processes left; no error comes of that.
 */
export async function choosePartPath(path: string): Promise<string> {
  const self = await readPartWriter();
  if (self !== undefined) await sweepParts(dirname(path), self);
  const token =
    self === undefined ? toHex(systemRandom.bytes(tokenBytes)) : createPartName(self, systemRandom);
  return join(dirname(path), `.${basename(path).slice(0, shownChars)}.${token}.kluis-part`);
}

/**
 * Gives a file that is whole and synced its name, which nobody else may have: EEXIST where it is taken.
 * The folder is still to be synced.
 */
export async function giveName(partPath: string, path: string): Promise<void> {
  try {
    await link(partPath, path);
    await rm(partPath);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EPERM" && code !== "ENOTSUP" && code !== "EOPNOTSUPP") throw error;
    // No hard links there (FAT, some network file systems): take the name with an empty file,
    // which nobody else can have made, and replace that.
    await (await open(path, "wx", 0o600)).close();
    await rename(partPath, path);
  }
}

/**
 * Removes files of writers that have ended. Only one's own: where processes of others are hidden
 * (hidepid) they cannot be told from dead ones.
 */
async function sweepParts(folder: string, self: PartSelf): Promise<void> {
  // Who may not list a folder may still write to it.
  const names = await readdir(folder).catch((): string[] => []);
  await Promise.allSettled(
    names.map(async (name) => {
      const writer = parsePartName(pattern.exec(name)?.[1] ?? "");
      if (writer === undefined) return;
      const path = join(folder, name);
      const info = await lstat(path);
      if (!info.isFile() || info.uid !== process.getuid?.()) return;
      const ageMs = systemClock.nowMs() - info.mtimeMs;
      if (await isAbandoned({ writer, ageMs }, self, ages)) await rm(path, { force: true });
    }),
  );
}
