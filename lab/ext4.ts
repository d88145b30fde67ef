/**
 * Reads ext4 file systems in disk images on the host without mounting them, which containers often
 * cannot: e2fsprogs works on the raw file.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KluisError } from "#base/kluis-error.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { readTool } from "./tools.ts";

const checkTimeoutMs = 10 * 60 * 1000;
/** e2fsck: 0 is clean, 1 means it corrected something (a journal was replayed). */
const e2fsckCorrected = 1;

/** Copies an image of any format QEMU reads to a sparse raw file, which the functions here take. */
export async function exportRawImage(image: string, raw: string): Promise<void> {
  await readTool("qemu-img", ["convert", "-O", "raw", image, raw]);
}

/** Content of a file; `undefined` where there is none. Errors: ImageInvalid, see {@link replayExt4Journal}. */
export async function readExt4File(image: string, path: string): Promise<Uint8Array | undefined> {
  if (await needsJournalReplay(image)) {
    throw new KluisError(
      "ImageInvalid",
      `Cannot read "${path}" from "${image}": its journal holds newer data; replay it first`,
    );
  }
  const directory = await mkdtemp(join(tmpdir(), "kluis-lab-ext4-"));
  try {
    const copy = join(directory, "file");
    // debugfs exits with 0 whatever happens: the copy is the answer.
    await readTool("debugfs", ["-R", `dump ${quoteForDebugfs(path)} ${copy}`, image]);
    return await readFile(copy);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Names in a directory, without `.` and `..`; empty where there is no such directory. */
export async function listExt4Directory(image: string, path: string): Promise<readonly string[]> {
  const listed = await readTool("debugfs", ["-R", `ls -p ${quoteForDebugfs(path)}`, image]);
  const names = listed.split("\n").map((line) => line.split("/")[5] ?? "");
  return names.filter((name) => name !== "" && name !== "." && name !== "..");
}

/** What a check found. */
export interface Ext4Check {
  /** No error at all. A file system that was not frozen or unmounted has its journal to replay first. */
  readonly isClean: boolean;
  readonly report: string;
}

/** Checks a file system without writing to it. */
export async function checkExt4(image: string): Promise<Ext4Check> {
  const result = await runTool("e2fsck", ["-f", "-n", image], { timeoutMs: checkTimeoutMs });
  return { isClean: result.exitCode === 0, report: `${result.stdout}${result.stderr}` };
}

/** Whether the image was taken of a mounted file system that was not frozen. */
export async function needsJournalReplay(image: string): Promise<boolean> {
  const header = await readTool("dumpe2fs", ["-h", image]);
  return /^Filesystem features:.*\bneeds_recovery\b/mu.test(header);
}

/** Replays the journal in place, as the next mount would: use it on a copy. */
export async function replayExt4Journal(image: string): Promise<void> {
  const args = ["-y", "-E", "journal_only", image];
  const result = await runTool("e2fsck", args, { timeoutMs: checkTimeoutMs });
  if (result.exitCode !== e2fsckCorrected) assertToolSucceeded("e2fsck", result);
}

function quoteForDebugfs(path: string): string {
  return `"${path.replaceAll('"', '""')}"`;
}
