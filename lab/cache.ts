/**
 * The lab's cache: folders named after the hash of the recipe that made them, under `.cache/lab` of
 * the repository. An entry appears by one rename, complete, and is never changed afterwards.
 *
 * Builders lock each other out only to save work: two that run all the same both build, the first
 * rename wins and the other copy is thrown away.
 */
import { createHash } from "node:crypto";
import {
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import {
  isProcessAlive,
  readProcessIdentity,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";

/** Where all entries live. */
export const cacheRoot = fileURLToPath(new URL("../.cache/lab/", import.meta.url));

/** Entries nobody used for so long are removed when one of their kind is built. */
const unusedLimitMs = 7 * 24 * 3600 * 1000;
/** A lock without an owner file is a builder that died right after mkdir, once it is this old. */
const ownerlessLimitMs = 10_000;
/** Longest wait for another builder: the slowest image takes some minutes. */
const lockWaitLimitMs = 20 * 60 * 1000;
const lockPollMs = 100;
const hashChars = 16;
const ownerFile = "owner.json";

/** What identifies an entry: any JSON value that changes when the result would. */
export type Recipe = Readonly<Record<string, unknown>>;

/** Name of the entry of `kind` made by `recipe`. */
export function entryName(kind: string, recipe: Recipe): string {
  const hash = createHash("sha256").update(JSON.stringify(recipe)).digest("hex");
  return `${kind}-${hash.slice(0, hashChars)}`;
}

/**
 * Returns the folder of the entry, built first by `build` (which fills the empty folder it is given)
 * where it is not there. Safe under concurrent callers and after a crash at any moment.
 */
export async function ensureEntry(
  kind: string,
  recipe: Recipe,
  build: (directory: string) => Promise<void>,
  root: string = cacheRoot,
): Promise<string> {
  const name = entryName(kind, recipe);
  const final = join(root, name);
  if (await isUsable(final)) return final;
  await mkdir(root, { recursive: true });
  const lock = await acquireLock(`${final}.lock`);
  try {
    if (await isUsable(final)) return final;
    const draft = await mkdtemp(join(root, `draft-${String(process.pid)}-`));
    try {
      await build(draft);
      await writeFile(join(draft, "recipe.json"), `${JSON.stringify(recipe, undefined, 1)}\n`);
      await publish(draft, final);
    } finally {
      await rm(draft, { recursive: true, force: true });
    }
    await pruneUnused(root, kind, name);
  } finally {
    await rm(lock, { recursive: true, force: true });
  }
  return final;
}

async function publish(draft: string, final: string): Promise<void> {
  try {
    await rename(draft, final);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw error;
  }
}

/** Whether the entry exists; marks it as used now. */
async function isUsable(directory: string): Promise<boolean> {
  const now = systemClock.nowMs() / 1000;
  try {
    await utimes(directory, now, now);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

/** Removes entries of `kind` that nobody used for long, and drafts of builders that died. */
async function pruneUnused(root: string, kind: string, keepName: string): Promise<void> {
  for (const name of await readdir(root)) {
    const path = join(root, name);
    if (name.startsWith("draft-")) {
      const builder = Number(name.split("-")[1]);
      const isAlive = (await readProcessIdentity(builder)) !== undefined;
      if (!isAlive) await rm(path, { recursive: true, force: true });
      continue;
    }
    const ofKind = name.startsWith(`${kind}-`) && name.length === kind.length + 1 + hashChars;
    if (!ofKind || name === keepName) continue;
    const ageMs = systemClock.nowMs() - (await stat(path)).mtimeMs;
    if (ageMs > unusedLimitMs) await rm(path, { recursive: true, force: true });
  }
}

async function acquireLock(path: string): Promise<string> {
  const deadlineMs = systemClock.monotonicMs() + lockWaitLimitMs;
  while (systemClock.monotonicMs() < deadlineMs) {
    try {
      await mkdir(path);
      const owner = await readProcessIdentity(process.pid);
      await writeFile(join(path, ownerFile), JSON.stringify(owner));
      return path;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    if (await isStaleLock(path)) await breakLock(path);
    else await systemClock.sleep(lockPollMs);
  }
  throw new KluisError("Busy", `Cannot build a lab image: "${path}" is held by another builder`);
}

/** Whether the builder that holds the lock is gone (its pid may belong to another process by now). */
async function isStaleLock(path: string): Promise<boolean> {
  try {
    const owner = await readFile(join(path, ownerFile), "utf8");
    if (owner !== "") return !(await isProcessAlive(JSON.parse(owner) as ProcessIdentity));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  try {
    return systemClock.nowMs() - (await stat(path)).mtimeMs > ownerlessLimitMs;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return false;
  }
}

/** Takes a stale lock away by a rename, which only one of many can win. */
async function breakLock(path: string): Promise<void> {
  const broken = `${path}.${String(process.pid)}`;
  try {
    await rename(path, broken);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return;
  }
  await rm(broken, { recursive: true, force: true });
}
