/** A whole backup and a whole restore in this process, next to what their stages take one by one. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { present } from "#base/assert.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { copyToTarget } from "#vault/recovery-point.ts";

import { openBenchVault, writeOneDisk } from "../bench-vault.ts";
import { median } from "../statistics.ts";
import type { MegabytesPerSecond } from "./rate.ts";

const rounds = 3;

/** A whole run. */
export interface PipelineFigures {
  readonly rate: MegabytesPerSecond;
  /** Of all threads, megabytes for each second of processor time. */
  readonly ratePerCpu: MegabytesPerSecond;
}

/** Rates of data bytes, medians. */
export interface PipelinesFigures {
  readonly dataBytes: number;
  readonly storedBytes: number;
  readonly backup: PipelineFigures;
  readonly restore: PipelineFigures;
}

interface Run {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** Backs `image` up into empty vaults in `folder` and restores it, several times. */
export async function measurePipelines(
  image: string,
  folder: string,
  signal: AbortSignal,
): Promise<PipelinesFigures> {
  const backups: Run[] = [];
  const restores: Run[] = [];
  let dataBytes = 0;
  let storedBytes = 0;
  for (let round = 0; round < rounds; round++) {
    const place = join(folder, "pipeline");
    await mkdir(place);
    await using source = await imageAccess.openSource(image, { format: "raw" }, signal);
    await using bench = await openBenchVault(place);
    const [written, backup] = await time(() =>
      writeOneDisk(bench.vault, { reader: source.reader }, signal),
    );
    backups.push(backup);
    const disk = present(written.manifest.disks[0], "a point has a disk");
    dataBytes = disk.mappedBytes;
    storedBytes = written.added.bytes;
    const [, restore] = await time(async () => {
      await using reader = bench.vault.openDisk(disk);
      const { sizeBytes } = disk;
      const request = { place: join(place, "out.raw"), format: "raw", sizeBytes } as const;
      await using target = await imageAccess.createTarget({ ...request, overwrite: false }, signal);
      await copyToTarget(reader, target, { signal, onProgress: () => undefined });
    });
    restores.push(restore);
    await rm(place, { recursive: true });
  }
  return {
    dataBytes,
    storedBytes,
    backup: summarize(dataBytes, backups),
    restore: summarize(dataBytes, restores),
  };
}

async function time<T>(work: () => Promise<T>): Promise<[T, Run]> {
  const startMs = performance.now();
  const before = process.cpuUsage();
  const result = await work();
  const { user, system } = process.cpuUsage(before);
  return [result, { wallMs: performance.now() - startMs, cpuMs: (user + system) / 1000 }];
}

function summarize(bytes: number, runs: readonly Run[]): PipelineFigures {
  return {
    rate: bytes / 1000 / median(runs.map(({ wallMs }) => wallMs)),
    ratePerCpu: bytes / 1000 / median(runs.map(({ cpuMs }) => cpuMs)),
  };
}
