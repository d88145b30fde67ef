/** Backs up one disk image or NBD export as a protected item with a single disk. */
import { KluisError } from "#base/kluis-error.ts";
import { valueOf } from "#base/settled.ts";
import type { SourceImage } from "#ports/source-image.ts";
import type { RecoveryPoint } from "#vault/recovery-point.ts";
import {
  assertGoingOn,
  type BackupDeps,
  type BackupOutcome,
  compareDisk,
  type DiskMethod,
  RunScope,
  sampleDisk,
  toBase,
  trustChanges,
  writeOptions,
} from "#protect/backup-run.ts";
import { orderPointId } from "#protect/point-order.ts";
import { planTracking, type TrackingPlan } from "#protect/tracking.ts";

/** Name of the one disk of an image's recovery points. */
export const imageDiskName = "disk";

/** What to back up as what. */
export interface ImageBackupRequest {
  readonly itemId: string;
  readonly itemName: string;
  /**
   * The point since which the image's bitmap recorded every change; by default the newest one. Only
   * for images with a bitmap.
   */
  readonly bitmapSince?: string;
}

/**
 * Writes a recovery point of `image`, which stays open. On any error nothing was committed.
 *
 * Errors: those of the image's reader, the vault and its store; ImageChangedDuringRead where the
 * image was written meanwhile; RecoveryPointNotFound for `bitmapSince`.
 */
export async function backupImage(
  image: SourceImage,
  request: ImageBackupRequest,
  deps: BackupDeps,
): Promise<BackupOutcome> {
  const startMs = deps.clock.monotonicMs();
  const takenAtMs = deps.clock.nowMs();
  const { base, newest } = await readBase(request, deps);
  const { pointId, warnings } = orderPointId(takenAtMs, newest, deps.random);
  const plan = planTracking({
    base,
    diskName: imageDiskName,
    ...(image.backing === undefined ? {} : { backingIdentity: image.backing.identity }),
    ...(image.bitmap === undefined ? {} : { bitmap: image.bitmap.name }),
  });
  await using scope = new RunScope();
  const method = await applyTracking(plan, image, { deps, scope });
  const changesMs = Math.round(deps.clock.monotonicMs() - startMs);
  const written = await deps.vault.writePoint(
    {
      point: {
        pointId,
        itemId: request.itemId,
        itemName: request.itemName,
        takenAtMs,
        consistency: "crash",
        consistencyReason: "an image is read as it is",
        ...(method.increment === undefined || base === undefined
          ? {}
          : { basePointId: base.pointId }),
        timing: { preparationMs: 0, snapshotMs: 0, changesMs },
      },
      disks: [{ name: imageDiskName, reader: image.reader, source: image.identity, ...method }],
    },
    writeOptions(deps),
  );
  const durationMs = deps.clock.monotonicMs() - startMs;
  return {
    ...written,
    durationMs,
    warnings: [...warnings, ...scope.alerts, ...written.warnings],
  };
}

/** What the new point is built on, and the id of the newest one. */
async function readBase(
  request: ImageBackupRequest,
  deps: BackupDeps,
): Promise<{ readonly base: RecoveryPoint | undefined; readonly newest: string | undefined }> {
  const { vault, signal } = deps;
  if (request.bitmapSince === undefined) {
    const base = await vault.readNewestPoint(request.itemId, signal);
    return { base, newest: base?.pointId };
  }
  const points = await vault.listPoints(request.itemId, signal);
  const name = points.find(({ pointId }) => pointId === request.bitmapSince);
  if (name !== undefined) {
    return { base: await vault.readPoint(name, signal), newest: points.at(-1)?.pointId };
  }
  throw new KluisError(
    "RecoveryPointNotFound",
    `Cannot build on recovery point "${request.bitmapSince}": "${request.itemName}" has none of that id`,
  );
}

async function applyTracking(
  plan: TrackingPlan,
  image: SourceImage,
  run: { readonly deps: BackupDeps; readonly scope: RunScope },
): Promise<DiskMethod> {
  const { deps, scope } = run;
  assertGoingOn(deps.signal);
  if (plan.method === "full") {
    return {
      tracking: "full",
      ...(plan.reason === undefined ? {} : { trackingReason: plan.reason }),
    };
  }
  const { baseDisk } = plan;
  const disk = { name: imageDiskName, reader: image.reader, baseDisk };
  if (plan.method === "overlay" && image.backing !== undefined) {
    const opening = image.backing.open(deps.signal);
    const changing = image.backing.changes(deps.signal);
    // While the image below is being opened, which takes a process.
    const sample = changing.then((changes) => sampleDisk({ ...disk, changes }, deps));
    const [opened, changes] = await Promise.allSettled([opening, changing, sample]);
    if (opened.status === "fulfilled") scope.owned.use(opened.value);
    const method: DiskMethod = {
      increment: { base: toBase(baseDisk, valueOf(opened)), changes: valueOf(changes) },
      tracking: "snapshot-difference",
    };
    return await trustChanges({ ...disk, changes: valueOf(changes), method, sample }, deps, scope);
  }
  if (plan.method === "bitmap" && image.bitmap !== undefined) {
    const changes = await image.bitmap.changes(deps.signal);
    const reader = scope.owned.use(deps.vault.openDisk(baseDisk));
    const increment = { base: toBase(baseDisk, reader), changes };
    const method: DiskMethod = { increment, tracking: "dirty-bitmap" };
    return await trustChanges({ ...disk, changes, method }, deps, scope);
  }
  const reason = plan.method === "checksum" ? plan.reason : "the image does not tell its changes";
  return await compareDisk({ ...disk, reason }, deps, scope);
}
