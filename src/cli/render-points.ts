/** Lists of recovery points, for people and for scripts. */
import { outputFormat, type PointsOutput } from "#contract/cli-output.ts";
import type { PointListing } from "#protect/points.ts";
import { type Column, formatBytes, formatTable, formatTime, printable } from "#cli/format.ts";
import { toPointOutput } from "#cli/output.ts";

const columns: readonly Column[] = [
  { head: "ITEM" },
  { head: "RECOVERY POINT" },
  { head: "TAKEN" },
  { head: "CONSISTENCY" },
  { head: "DISKS", align: "right" },
  { head: "SIZE", align: "right" },
  { head: "CHANGED", align: "right" },
  { head: "STORED", align: "right" },
];

/** The document of a list. */
export function toPointsOutput(listing: PointListing): PointsOutput {
  return {
    format: outputFormat,
    kind: "points",
    points: listing.points.map(toPointOutput),
    unreadable: listing.unreadable.map(({ item, pointId, code, message }) => ({
      id: pointId,
      item,
      code,
      message,
    })),
  };
}

/** The lines of a list. */
export function pointsLines(listing: PointListing): readonly string[] {
  const { points, unreadable } = listing;
  const rows = points.map((point) => {
    const sum = (key: "sizeBytes" | "changedBytes" | "storedBytes"): string =>
      formatBytes(point.disks.reduce((bytes, disk) => bytes + disk[key], 0));
    return [
      printable(point.itemId),
      point.pointId,
      formatTime(point.takenAtMs),
      point.consistency,
      String(point.disks.length),
      sum("sizeBytes"),
      sum("changedBytes"),
      sum("storedBytes"),
    ];
  });
  const damaged = unreadable.map(
    ({ pointId, message, code }) => `Unreadable: ${pointId}: ${printable(message)} (${code})`,
  );
  if (rows.length === 0 && damaged.length === 0) return ["The vault holds no recovery point yet."];
  return [...formatTable(columns, rows), ...damaged];
}
