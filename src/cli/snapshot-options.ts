/** Options about snapshots, and how they are read. */
import { snapshotDays } from "#protect/plan-expiry.ts";
import { firstFreePercent, reserveMiB, type SpaceWish } from "#protect/snapshot-space.ts";
import type { CommandInput, OptionSpec } from "#cli/command.ts";

const mib = 1024 * 1024;

/** Free space that is the guest's. */
export const reserveOption: OptionSpec = {
  flags: "--reserve <mib>",
  text: "free space beside the disks, in MiB, below which snapshots are given up for the guest",
  otherwise: String(reserveMiB.usual),
};

/** How a snapshot is taken and kept. */
export const snapshotOptions: readonly OptionSpec[] = [
  {
    flags: "--snapshot-days <days>",
    text: "how long the snapshot is kept for fast restores, 1 to 30",
    otherwise: String(snapshotDays.usual),
  },
  {
    flags: "--first-free <percent>",
    text: "part of what the disks take that must be free before their first snapshot; later it is their largest layer",
    otherwise: String(firstFreePercent.usual),
  },
  reserveOption,
];

/** Days of a snapshot. ArgumentInvalid (after-change). */
export function readSnapshotDays(input: CommandInput): number {
  return input.count("snapshotDays", snapshotDays) ?? snapshotDays.usual;
}

/** The reserve in bytes. ArgumentInvalid (after-change). */
export function readReserveBytes(input: CommandInput): number {
  return (input.count("reserve", reserveMiB) ?? reserveMiB.usual) * mib;
}

/** The room that a snapshot needs. ArgumentInvalid (after-change). */
export function readSpaceWish(input: CommandInput): SpaceWish {
  return {
    firstFreePercent: input.count("firstFree", firstFreePercent) ?? firstFreePercent.usual,
    reserveBytes: readReserveBytes(input),
  };
}
