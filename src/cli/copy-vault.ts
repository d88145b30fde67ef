/** What `vault replicate`, `vault lag` and `rescue copy` share. */
import { errorRegistry } from "#base/error-codes.ts";
import { type CopyOutput, type LagOutput, outputFormat } from "#contract/cli-output.ts";
import type {
  CopyReport,
  CopyRunOptions,
  ReplicationLag,
  SecondaryPruning,
} from "#vault/copy-report.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatBytes, formatDuration, formatTime } from "#cli/format.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";

/** A copy that is to be run. */
export interface CopyWork {
  readonly stores: Pick<CopyRunOptions, "primary" | "secondary" | "keys" | "cacheDirectory">;
  readonly copy: (
    options: CopyRunOptions,
  ) => Promise<CopyReport & { readonly isSecondary: boolean; readonly pruning?: SecondaryPruning }>;
}

/** Runs a copy with progress and prints its report; 14 where something was held back. */
export async function runCopy(
  input: CommandInput,
  environment: CliEnvironment,
  { stores, copy }: CopyWork,
): Promise<number> {
  const { clock, random, signal } = environment;
  const form = outputFormOf(input);
  const startMs = clock.monotonicMs();
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await copy({
    ...stores,
    clock,
    random,
    signal,
    onProgress: (doneBytes, totalBytes) =>
      display.update({ disk: "vault", doing: "copying", doneBytes, totalBytes }),
  });
  await display[Symbol.asyncDispose]();
  const document: CopyOutput = {
    format: outputFormat,
    kind: "copy",
    from: stores.primary.location,
    to: stores.secondary.location,
    objects: report.objects,
    bytes: report.bytes,
    points: report.points,
    heldBack: report.heldBack.map(({ pointId, item, reason }) => ({ id: pointId, item, reason })),
    damaged: report.damaged.map((object) => ({ ...object, verdict: "damaged" })),
    lag: toLagOutput(report.lag),
    isSecondary: report.isSecondary,
    ...(report.pruning === undefined ? {} : { pruning: report.pruning }),
    durationMs: Math.round(clock.monotonicMs() - startMs),
  };
  printResult(environment, form, { document, lines: copyLines(document) });
  const isWhole = document.heldBack.length === 0 && document.damaged.length === 0;
  return isWhole ? 0 : errorRegistry.ObjectCorrupt.exit;
}

/** The lag as the contract has it. */
export function toLagOutput(lag: ReplicationLag): LagOutput {
  return {
    points: lag.points,
    objects: lag.objects,
    bytes: lag.bytes,
    seconds: Math.ceil(lag.ageMs / 1000),
    measuredAt: new Date(lag.measuredAtMs).toISOString(),
  };
}

/** The lag in words. */
export function lagLine(lag: LagOutput): string {
  const at = formatTime(Date.parse(lag.measuredAt));
  if (lag.objects === 0) return `The secondary has everything that the primary had at ${at}`;
  const behind = `${formatDuration(lag.seconds * 1000)} and ${formatBytes(lag.bytes)} behind`;
  return `The secondary is ${behind} (${lag.points} recovery points, ${lag.objects} objects) at ${at}`;
}

function copyLines(document: CopyOutput): readonly string[] {
  const { objects, bytes, points, from, to, heldBack, damaged } = document;
  const time = formatDuration(document.durationMs);
  return [
    `Copied ${points} recovery points from ${from} to ${to}: ${objects} objects, ${formatBytes(bytes)}, in ${time}`,
    ...damaged.map(({ name, reason }) => `Damaged: ${name}: ${reason}`),
    ...heldBack.map(({ id, item, reason }) => `Held back: ${id} of item ${item}: ${reason}`),
    ...(document.pruning === undefined ? [] : pruningLines(document.pruning)),
    document.isSecondary ? lagLine(document.lag) : "The copy is a vault of its own",
  ];
}

function pruningLines(pruning: SecondaryPruning): readonly string[] {
  const { pointsDeleted, pointsUnexplained, freedBytes } = pruning;
  return [
    `Pruned the secondary: ${pointsDeleted} recovery points deleted, ${formatBytes(freedBytes)} freed`,
    ...(pointsUnexplained === 0
      ? []
      : [
          `${pointsUnexplained} recovery points are gone in the primary, not by a deletion: they stay`,
        ]),
  ];
}
