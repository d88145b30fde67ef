/** What a restore will do; pure. */
import { KluisError } from "#base/kluis-error.ts";
import type { ImageFormat, TargetInfo } from "#ports/source-image.ts";

/** One disk of a recovery point that can be restored, wherever its content is. */
export interface RestorableDisk {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whether it was encrypted on its host. Default: no. */
  readonly isEncrypted?: boolean;
}

/** What a restore has to know of a recovery point. */
export interface RestorablePoint {
  readonly pointId: string;
  readonly disks: readonly RestorableDisk[];
}

/** A disk and where it shall go. */
export interface WantedTarget {
  readonly diskName: string;
  /** Absolute path or NBD URI. */
  readonly place: string;
  readonly format: ImageFormat;
  /** Seals the target; see the port. */
  readonly passphrase?: Uint8Array;
}

/** What is asked of a restore. */
export interface RestoreRequest {
  readonly targets: readonly WantedTarget[];
  /** Whether targets that exist may go. */
  readonly overwrite: boolean;
  /** Whether disks that were encrypted may lie in the clear. Default: no. */
  readonly isPlaintextMeant?: boolean;
}

/** One disk of a plan. */
export interface PlannedDisk extends WantedTarget {
  readonly disk: RestorableDisk;
  readonly overwrite: boolean;
}

/** Disks to write, in the order of the request. */
export interface RestorePlan {
  readonly point: RestorablePoint;
  readonly disks: readonly PlannedDisk[];
}

/** The disks of a point by name, all where no name is given. ArgumentInvalid (after-change). */
export function chooseDisks(
  point: RestorablePoint,
  names: readonly string[],
): readonly RestorableDisk[] {
  if (names.length === 0) return point.disks;
  return names.map((name) => findDisk(point, name));
}

/**
 * Plans a restore of `point`.
 *
 * @param found What is at each place of the request, by place.
 *
 * Errors (after-change): ArgumentInvalid for a disk that is not there, for a disk or a place named
 * twice, and for one that was encrypted and would lie in the clear unasked; TargetExists; TargetTooSmall.
 */
export function planRestore(
  point: RestorablePoint,
  request: RestoreRequest,
  found: ReadonlyMap<string, TargetInfo>,
): RestorePlan {
  assertDistinct(request.targets, "diskName", "disk");
  assertDistinct(request.targets, "place", "target");
  const disks = request.targets.map((target): PlannedDisk => {
    const disk = findDisk(point, target.diskName);
    if (request.isPlaintextMeant !== true) assertSealed(disk, target);
    assertFits(disk, target, { info: found.get(target.place), overwrite: request.overwrite });
    return { ...target, disk, overwrite: request.overwrite };
  });
  if (disks.length === 0) {
    throw new KluisError("ArgumentInvalid", "Cannot restore: no disk is named");
  }
  return { point, disks };
}

function findDisk(point: RestorablePoint, name: string): RestorableDisk {
  const disk = point.disks.find((candidate) => candidate.name === name);
  if (disk !== undefined) return disk;
  const names = point.disks.map((candidate) => candidate.name).join(", ");
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot restore disk "${name}": recovery point ${point.pointId} has the disks ${names}`,
  );
}

function assertSealed(disk: RestorableDisk, target: WantedTarget): void {
  if (disk.isEncrypted !== true || target.passphrase !== undefined) return;
  throw new KluisError(
    "ArgumentInvalid",
    `Cannot restore disk "${disk.name}" to "${target.place}": it was encrypted, and would lie there in ` +
      "the clear; say --plaintext where that is meant, or restore the VM with kluis vm restore --connect",
  );
}

function assertDistinct(
  targets: readonly WantedTarget[],
  key: "diskName" | "place",
  word: string,
): void {
  const seen = new Set<string>();
  for (const target of targets) {
    const value = target[key];
    if (seen.has(value)) {
      throw new KluisError(
        "ArgumentInvalid",
        `Cannot restore: the ${word} "${value}" is named twice`,
      );
    }
    seen.add(value);
  }
}

function assertFits(
  disk: RestorableDisk,
  target: WantedTarget,
  place: { readonly info: TargetInfo | undefined; readonly overwrite: boolean },
): void {
  const { info } = place;
  if (info === undefined || info.kind === "absent") return;
  if (!place.overwrite) {
    throw new KluisError("TargetExists", `Cannot restore to "${target.place}": it exists`);
  }
  if (info.kind === "file" || info.sizeBytes === undefined) return;
  if (target.format !== "raw") {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot restore to "${target.place}" as ${target.format}: a device or export takes raw only`,
    );
  }
  if (info.sizeBytes >= disk.sizeBytes) return;
  throw new KluisError(
    "TargetTooSmall",
    `Cannot restore to "${target.place}": it has ${info.sizeBytes} bytes, disk "${disk.name}" has ${disk.sizeBytes}`,
    { details: { targetBytes: info.sizeBytes, diskBytes: disk.sizeBytes } },
  );
}
