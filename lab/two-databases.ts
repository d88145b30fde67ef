/**
 * The two-databases application: each number goes into a database on one disk, then into one on
 * another, under a lock. A snapshot that is consistent for the application shows both equal.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readExt4File } from "./ext4.ts";
import type { GuestExec } from "./guest-exec.ts";
import { runInGuest, startInGuest } from "./guest.ts";
import { readTool } from "./tools.ts";

const countRows = "SELECT count(*) FROM numbers";

/** Starts the writer on two database files of the guest; returns its pid for `killInGuest`. */
export function startTwoDatabases(
  exec: GuestExec,
  firstPath: string,
  secondPath: string,
): Promise<number> {
  return startInGuest(exec, ["lab-two-databases-writer", firstPath, secondPath]);
}

/** Makes every freeze from now on wait for the application's lock and hold it until the thaw. */
export async function installTwoDatabasesHook(exec: GuestExec): Promise<void> {
  await runInGuest(exec, "ln -sf /usr/bin/lab-two-databases-hook /run/lab-freeze-hook");
}

/**
 * Makes the application's own hook the pre and post script of every backup, instead of a hook of the
 * freeze: pre takes the application's lock, post lets it go.
 */
export async function installTwoDatabasesScripts(exec: GuestExec): Promise<void> {
  const config = {
    pluginName: "ScriptRunner",
    appName: "two-databases",
    preScriptLocation: "/usr/bin/lab-two-databases-hook",
    postScriptLocation: "/usr/bin/lab-two-databases-hook",
    preScriptParams: ["freeze"],
    postScriptParams: ["thaw"],
    timeoutInSeconds: 30,
  };
  const script = `chmod 700 /usr/bin/lab-two-databases-hook && mkdir -p /etc/azure && umask 077 &&
    printf '%s' "$1" >/etc/azure/VMSnapshotScriptPluginConfig.json`;
  await runInGuest(exec, script, [JSON.stringify(config)]);
}

/** Rows of a database in the guest; waits for writers that hold it locked. */
export async function countRowsInGuest(exec: GuestExec, path: string): Promise<number> {
  const script = 'sqlite3 -cmd ".timeout 10000" "$1" "$2"';
  return Number(await runInGuest(exec, script, [path, countRows]));
}

/** A database in a raw ext4 image. */
export interface DatabaseInImage {
  readonly rows: number;
  /** A journal lay beside it: an insert was under way, and was rolled back before counting. */
  readonly hadJournal: boolean;
}

/** Rows of a database in a raw ext4 image, whose journal was replayed or empty. */
export async function countRowsInImage(image: string, path: string): Promise<DatabaseInImage> {
  const directory = await mkdtemp(join(tmpdir(), "kluis-lab-sqlite-"));
  try {
    const copy = join(directory, "copy.db");
    const journal = await readExt4File(image, `${path}-journal`);
    await writeFile(copy, (await readExt4File(image, path)) ?? new Uint8Array());
    if (journal !== undefined) await writeFile(`${copy}-journal`, journal);
    const rows = Number(await readTool("sqlite3", [copy, countRows]));
    return { rows, hadJournal: journal !== undefined };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
