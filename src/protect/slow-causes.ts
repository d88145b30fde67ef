/** Why a backup took longer than an increment of the same VM usually does; pure, from its figures. */
import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";

/** Changes of a disk that are many whatever its size: at that rate a day's transfer takes hours. */
export const highChurnBytes = 200 * 1000 ** 3;
/** Changes are many for a disk, too, where they are this part of what it holds … */
export const highChurnShare = 0.2;
/** … and at least so much. */
export const highChurnBytesMin = 1024 ** 3;
/** Changes are fragmented where so many ranges … */
export const fragmentedRangesMin = 1000;
/** … have fewer bytes than this on average. */
export const fragmentedRangeBytes = 64 * 1024;

/** What makes a backup slow. */
export type SlowCauseName = "first-backup" | "new-disk" | "checksum" | "high-churn" | "fragmented";

/** One cause. */
export interface SlowCause {
  readonly disk: string;
  readonly cause: SlowCauseName;
  /** For people. */
  readonly text: string;
}

/** Every cause that the figures of a recovery point show, by disk; empty for a usual increment. */
export function findSlowCauses(point: Pick<RecoveryPoint, "disks">): readonly SlowCause[] {
  return point.disks.flatMap((disk) =>
    causesOf(disk).map(([cause, text]) => ({ disk: disk.name, cause, text })),
  );
}

function causesOf(disk: RecoveryPointDisk): readonly (readonly [SlowCauseName, string])[] {
  const { tracking, trackingReason } = disk;
  if (tracking === "full") {
    return trackingReason === undefined
      ? [["first-backup", "it is the first backup, which reads all of it"]]
      : [["new-disk", `all of it was read: ${trackingReason}`]];
  }
  const causes: (readonly [SlowCauseName, string])[] = [];
  if (tracking === "checksum") {
    const why = trackingReason ?? "changes were not recorded";
    causes.push(["checksum", `all of it was compared by checksum: ${why}`]);
  }
  if (isHighChurn(disk)) {
    causes.push(["high-churn", `much of it changed: ${disk.changedBytes} bytes`]);
  }
  if (isFragmented(disk)) {
    causes.push(["fragmented", `its changes lie in ${disk.namedRanges ?? 0} small ranges`]);
  }
  return causes;
}

function isHighChurn({ changedBytes, mappedBytes }: RecoveryPointDisk): boolean {
  if (changedBytes >= highChurnBytes) return true;
  return changedBytes >= highChurnBytesMin && changedBytes >= mappedBytes * highChurnShare;
}

function isFragmented({ tracking, namedBytes = 0, namedRanges = 0 }: RecoveryPointDisk): boolean {
  if (tracking === "checksum" || namedRanges < fragmentedRangesMin) return false;
  return namedBytes / namedRanges < fragmentedRangeBytes;
}
