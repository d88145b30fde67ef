/**
 * Workload P: a disk of 4 GiB, of which 512 MiB are random and 512 MiB log text and the rest was
 * never written; then 2,621 pages of 4 KiB of it, anywhere in its data, with new random content.
 */
import { constants } from "node:fs";
import { copyFile, open, truncate, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { pageBytes } from "#formats/geometry.ts";
import { createPrng } from "#testing/seed.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";

import { openCachedFolder, syncFile } from "./cached-folder.ts";
import { LogText } from "./log-text.ts";

/** Changes with anything that changes the content. */
const version = 1;
const seed = 20_261_122;
const writeBytes = 4 * 1024 * 1024;
const toolTimeoutMs = 10 * 60_000;
const mebibyte = 1024 * 1024;

/** The disk before and after its guest wrote, in files that nobody may change. */
export interface WorkloadP {
  /** Raw, as it was backed up first. */
  readonly before: string;
  /** Raw, after the guest wrote. */
  readonly after: string;
  /** What the guest wrote, as an overlay with 4 KiB subclusters on `before`. */
  readonly overlay: string;
  readonly sizeBytes: number;
  /** The start of the disk, which holds data; the rest is a hole. */
  readonly dataBytes: number;
  readonly changedPages: number;
}

type Facts = Pick<WorkloadP, "sizeBytes" | "dataBytes" | "changedPages">;

/** The files of workload P; at `scale` 1 as the head says, else smaller in every way. */
export async function openWorkloadP(
  options: { readonly scale: number; readonly sizeBytes?: number },
  signal: AbortSignal,
): Promise<WorkloadP> {
  const { scale } = options;
  const partBytes = Math.max(1, Math.round(512 * scale)) * mebibyte;
  const facts: Facts = {
    sizeBytes: options.sizeBytes ?? 8 * partBytes,
    dataBytes: 2 * partBytes,
    changedPages: Math.max(16, Math.floor(2621 * scale)),
  };
  const name = `workload-p${version}-${facts.sizeBytes / mebibyte}-${facts.dataBytes / mebibyte}`;
  const { folder } = await openCachedFolder(name, (draft) => make(draft, facts, signal));
  return { ...facts, ...pathsIn(folder) };
}

/** The pages that change, ascending, each once. */
export function drawPages(dataBytes: number, count: number, drawSeed: number): readonly number[] {
  const random = createPrng(drawSeed);
  const pages = new Set<number>();
  while (pages.size < count) pages.add(random.below(dataBytes / pageBytes));
  return [...pages].toSorted((a, b) => a - b);
}

function pathsIn(folder: string): Pick<WorkloadP, "before" | "after" | "overlay"> {
  return {
    before: join(folder, "before.raw"),
    after: join(folder, "after.raw"),
    overlay: join(folder, "overlay.qcow2"),
  };
}

async function make(folder: string, facts: Facts, signal: AbortSignal): Promise<Facts> {
  const { before, after, overlay } = pathsIn(folder);
  await writeBefore(before, facts, signal);
  await copyFile(before, after, constants.COPYFILE_EXCL);
  await changePages(after, facts);
  // An overlay on the new content, set on the old content, takes what differs. Both are read
  // whole for that, so disks get their size afterwards.
  const layout = ["-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "-F", "raw"];
  await runQemuImg(["create", ...layout, "-b", "after.raw", overlay], signal);
  await runQemuImg(
    ["rebase", "-q", "-f", "qcow2", "-F", "raw", "-b", "before.raw", overlay],
    signal,
  );
  await runQemuImg(["resize", "-q", "-f", "qcow2", overlay, String(facts.sizeBytes)], signal);
  for (const path of [before, after]) await truncate(path, facts.sizeBytes);
  for (const path of [before, after, overlay]) await syncFile(path);
  return facts;
}

async function writeBefore(path: string, facts: Facts, signal: AbortSignal): Promise<void> {
  const random = createSeededRandom("workload-p", seed);
  const text = new LogText(seed);
  const file = await open(path, "wx");
  try {
    for (let at = 0; at < facts.dataBytes; at += writeBytes) {
      signal.throwIfAborted();
      const length = Math.min(writeBytes, facts.dataBytes - at);
      if (at < facts.dataBytes / 2) await file.write(random.bytes(length), 0, length, at);
      else await writeText(file, at, { text, length });
    }
  } finally {
    await file.close();
  }
}

async function writeText(
  file: FileHandle,
  at: number,
  part: { readonly text: LogText; readonly length: number },
): Promise<void> {
  const bytes = new Uint8Array(part.length);
  part.text.writeInto(bytes);
  await file.write(bytes, 0, part.length, at);
}

async function changePages(path: string, facts: Facts): Promise<void> {
  const random = createSeededRandom("workload-p/changes", seed);
  const file = await open(path, "r+");
  try {
    for (const page of drawPages(facts.dataBytes, facts.changedPages, seed)) {
      await file.write(random.bytes(pageBytes), 0, pageBytes, page * pageBytes);
    }
  } finally {
    await file.close();
  }
}

async function runQemuImg(args: readonly string[], signal: AbortSignal): Promise<void> {
  const result = await runTool("qemu-img", args, { timeoutMs: toolTimeoutMs, signal });
  assertToolSucceeded("qemu-img", result);
}
