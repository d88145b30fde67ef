/**
 * `npm run bench -- engine`: what each stage of a backup and a restore does in a second, next to the
 * machine's own limit for it, and the whole next to the sum of its stages.
 *
 * Stages that compute run in one thread on real data in memory (workload D); files are those of
 * workload P, in the page cache. Options: `--scale N` (1), `--sample-mib N` (128), `--json`.
 */
import { open } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";

import { present } from "#base/assert.ts";
import { isZero } from "#base/bytes.ts";
import { windowBytes } from "#formats/geometry.ts";

import { createCpuStages } from "./engine/cpu-stages.ts";
import { openIoStages } from "./engine/io-stages.ts";
import { measurePipelines, type PipelinesFigures } from "./engine/pipeline.ts";
import { measureStage, type Stage } from "./engine/rate.ts";
import { createStamp, describeStamp, type Stamped, writeFigures } from "./figures.ts";
import { withRunFolder } from "./folders.ts";
import { openWorkloadD } from "./workloads/workload-d.ts";
import { openWorkloadP } from "./workloads/workload-p.ts";

const frameWindows = 4;
const wholeSampleMib = 128;
/** Stages that all data goes through. */
const backupStages = [
  "read a raw image (page cache)",
  "block id",
  "window checksum",
  "compress and encrypt frames",
  "open and verify frames",
];
/** Stages that only what is stored goes through. */
const storedStages = ["put frames into a pack", "put packs of 32 MiB durably"];
const restoreStages = ["open and verify frames", "write a raw target durably"];

/** What to measure. */
export interface EngineOptions {
  readonly scale: number;
  readonly sampleMib: number;
}

/** Everything that a run measured. */
export interface EngineFigures {
  readonly stages: readonly Stage[];
  /** Whole runs on workload D. */
  readonly whole: PipelinesFigures;
  /** What a backup would do if its stages shared the cores without any loss. */
  readonly backupIdeal: number;
  readonly restoreIdeal: number;
  readonly cores: number;
}

/** Measures all of it. */
export function measureEngine(
  options: EngineOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<EngineFigures> {
  return withRunFolder("engine", (folder) => measureIn(folder, options, context));
}

async function measureIn(
  folder: string,
  options: EngineOptions,
  context: { readonly signal: AbortSignal; readonly log: (line: string) => void },
): Promise<EngineFigures> {
  const { signal, log } = context;
  const { scale } = options;
  const { image } = await openWorkloadD({ scale }, signal);
  const p = await openWorkloadP({ scale }, signal);
  const dataBytes = p.dataBytes - (p.dataBytes % (4 * 1024 * 1024));
  const stages: Stage[] = [];
  const measure = async (work: Parameters<typeof measureStage>[0]): Promise<void> => {
    signal.throwIfAborted();
    const stage = await measureStage(work);
    stages.push(stage);
    log(`${stage.name}: ${stage.rate.toFixed(0)} of ${stage.limit.toFixed(0)} MB/s`);
  };
  {
    await using io = await openIoStages({ image: p.before, dataBytes, folder, signal });
    for (const stage of io.stages) await measure(stage);
  }
  const sample = await readSample(image, options.sampleMib);
  for (const stage of createCpuStages(sample)) await measure(stage);
  const whole = await measurePipelines(image, folder, signal);
  const cores = availableParallelism();
  const storedShare = whole.storedBytes / whole.dataBytes;
  const secondsOf = (names: readonly string[]): number => secondsPerMegabyte(stages, names);
  return {
    stages,
    whole,
    backupIdeal: cores / (secondsOf(backupStages) + storedShare * secondsOf(storedStages)),
    restoreIdeal: cores / secondsOf(restoreStages),
    cores,
  };
}

/** Windows from the middle of an image that are not all zeros. */
async function readSample(image: string, mebibytes: number): Promise<Uint8Array> {
  const windows: Uint8Array[] = [];
  const file = await open(image, "r");
  try {
    const { size } = await file.stat();
    const wanted = Math.min(mebibytes * frameWindows, Math.floor(size / windowBytes / 2));
    for (let at = Math.floor(size / 4 / windowBytes); windows.length < wanted; at++) {
      const window = new Uint8Array(windowBytes);
      const { bytesRead } = await file.read(window, 0, windowBytes, at * windowBytes);
      if (bytesRead < windowBytes) break;
      if (!isZero(window)) windows.push(window);
    }
  } finally {
    await file.close();
  }
  return new Uint8Array(
    Buffer.concat(windows.slice(0, windows.length - (windows.length % frameWindows))),
  );
}

function secondsPerMegabyte(stages: readonly Stage[], names: readonly string[]): number {
  const seconds = names.map((name) => {
    const stage = stages.find((one) => one.name === name);
    return 1 / present(stage, `the stage "${name}" was measured`).rate;
  });
  return seconds.reduce((sum, each) => sum + each, 0);
}

/** The figures as Markdown. */
export function describeEngine({ stamp, figures }: Stamped<EngineFigures>): string {
  const { stages, whole, cores } = figures;
  const rows = stages.map(({ name, rate, limitName, limit }) => {
    const share = ((rate / limit) * 100).toFixed(0);
    return `| ${name} | ${rate.toFixed(0)} | ${limitName} | ${limit.toFixed(0)} | ${share} % |`;
  });
  const wholeRow = (name: string, run: PipelinesFigures["backup"], ideal: number): string =>
    `| ${name} | ${run.rate.toFixed(0)} | stages above, shared by ${cores} cores without loss | ` +
    `${ideal.toFixed(0)} | ${((run.rate / ideal) * 100).toFixed(0)} % |`;
  return [
    `${describeStamp(stamp)}.`,
    "",
    "| stage (one thread) | MB/s | the machine's own limit | MB/s | share |",
    "|---|---:|---|---:|---:|",
    ...rows,
    wholeRow("**whole full backup** (workload D)", whole.backup, figures.backupIdeal),
    wholeRow("**whole restore** (workload D)", whole.restore, figures.restoreIdeal),
    "",
    `For each second of processor time, of all threads: backup ${whole.backup.ratePerCpu.toFixed(0)} MB, restore ${whole.restore.ratePerCpu.toFixed(0)} MB.`,
  ].join("\n");
}

/** The command; see the file's head. */
export async function runEngineBench(words: readonly string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      scale: { type: "string", default: "1" },
      "sample-mib": { type: "string", default: String(wholeSampleMib) },
      json: { type: "boolean", default: false },
    },
  });
  const stamp = await createStamp(signal);
  const options = { scale: Number(values.scale), sampleMib: Number(values["sample-mib"]) };
  const context = { signal, log: (line: string) => console.error(line) };
  const figures = await measureEngine(options, context);
  const isWhole = options.scale === 1 && options.sampleMib >= wholeSampleMib;
  await writeFigures("engine", { stamp, figures }, isWhole ? "whole" : "try");
  if (values.json) console.log(JSON.stringify(figures, undefined, 2));
  else console.log(describeEngine({ stamp, figures }));
}
