/** Rates of stages, and of the least that this machine needs for the same. */
import { median } from "../statistics.ts";

const runs = 3;
const runMsMin = 300;
const repeatsMax = 10_000;

/** Megabytes (10^6 bytes) a second. */
export type MegabytesPerSecond = number;

/** A stage of the engine next to the machine's own limit for it. */
export interface Stage {
  readonly name: string;
  /** The product's own code. */
  readonly rate: MegabytesPerSecond;
  /** What the limit is, in words. */
  readonly limitName: string;
  readonly limit: MegabytesPerSecond;
}

/** A stage to measure: both pieces of work handle the same number of bytes. */
export interface StageWork {
  readonly name: string;
  readonly bytes: number;
  readonly work: () => void | Promise<void>;
  readonly limitName: string;
  readonly limitWork: () => void | Promise<void>;
}

/** Measures the product and the limit in turns; medians. */
export async function measureStage(stage: StageWork): Promise<Stage> {
  const rates: number[] = [];
  const limits: number[] = [];
  await stage.work();
  await stage.limitWork();
  for (let run = 0; run < runs; run++) {
    rates.push(await measureRate(stage.bytes, stage.work));
    limits.push(await measureRate(stage.bytes, stage.limitWork));
  }
  const { name, limitName } = stage;
  return { name, rate: median(rates), limitName, limit: median(limits) };
}

async function measureRate(
  bytes: number,
  work: () => void | Promise<void>,
): Promise<MegabytesPerSecond> {
  const startMs = performance.now();
  let repeats = 0;
  let wallMs = 0;
  while (wallMs < runMsMin && repeats < repeatsMax) {
    await work();
    repeats++;
    wallMs = performance.now() - startMs;
  }
  return (bytes * repeats) / 1000 / wallMs;
}
