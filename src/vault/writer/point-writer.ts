/** Writes one recovery point: all disks in parallel, then the manifest as the one commit. */
import { present } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { KluisError, toKluisError } from "#base/kluis-error.ts";
import { untilAborted } from "#base/until-aborted.ts";
import { tombstoneBytes } from "#formats/control-record.ts";
import { leafWindows, windowBytes } from "#formats/geometry.ts";
import {
  encodeManifest,
  type Manifest,
  type ManifestDisk,
  type ManifestTiming,
} from "#formats/manifest.ts";
import type { Leaf } from "#formats/map-node.ts";
import { pointName } from "#formats/store-names.ts";
import type { ChangedExtents, DiskReader, Extent } from "#ports/disk.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import { fenced } from "#vault/gc/backup-session.ts";
import type { StoredObject } from "#vault/inventory/inventory.ts";
import { toItemName } from "#vault/item-name.ts";
import { createMapBuilder, type MapBuilder } from "#vault/map/map-builder.ts";
import { type DiskMap, type MapAccess, windowsOf } from "#vault/map/map-source.ts";
import { RewriteSweep } from "#vault/map/rewrite-rule.ts";
import { walkMap } from "#vault/map/walk-map.ts";
import { planResize } from "#vault/writer/disk-changes.ts";
import { DiskPipeline, type DiskTotals } from "#vault/writer/disk-pipeline.ts";
import {
  collectDataWindows,
  pageChanges,
  planFull,
  planIncrement,
  type Segment,
  touchedWindows,
  type WindowRun,
} from "#vault/writer/segment-plan.ts";
import { storeHealed, withHealing } from "#vault/writer/healed-windows.ts";
import { planRewrites } from "#vault/writer/rewrite-plan.ts";
import { dropKnownZeros } from "#vault/writer/known-zeros.ts";
import { type SessionDeps, WriteSession } from "#vault/writer/write-session.ts";
import type { SinkTotals } from "#vault/writer/pack-sink.ts";

/** A disk at an earlier point, and a reader of its content then. */
export interface DiskBase {
  readonly disk: ManifestDisk;
  /** The frozen base snapshot, or the vault itself. Not disposed here. */
  readonly reader: DiskReader;
}

/** One disk of a new recovery point. */
export interface DiskInput {
  readonly name: string;
  /** Content at the instant of the point. Not disposed here. */
  readonly reader: DiskReader;
  /** Whether it is encrypted on its host. */
  readonly isEncrypted?: boolean;
  /** Windows that hold data, where somebody has asked already; for a full read. */
  readonly dataWindows?: Promise<readonly WindowRun[]>;
  /** Absent for a full read. Changes are extents in which the disk may differ from the base. */
  readonly increment?: {
    readonly base: DiskBase;
    readonly changes: ChangedExtents;
    /** Windows, ascending, whose blocks the vault has lost: stored again, changed or not. */
    readonly healing?: readonly number[];
  };
  readonly tracking: ManifestDisk["tracking"];
  readonly trackingReason?: string;
  /** Bytes read beforehand to find the changes (a comparison by checksum). */
  readonly examinedBytes?: number;
  readonly source?: string;
}

/** What a new recovery point is; the writer adds what it measures. */
export interface PointInput {
  readonly point: Omit<Manifest, "disks" | "committedAtMs" | "timing"> & {
    readonly timing?: Omit<ManifestTiming, "transferMs">;
  };
  readonly disks: readonly DiskInput[];
}

/** How far a transfer is. Figures are exact for what has happened. */
export interface TransferProgress {
  readonly disk: string;
  /** Bytes of the plan that are done, and of the whole plan; windows of 256 KiB. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What a session needs beside its input. */
export interface WriterDeps extends SessionDeps {
  readonly access: MapAccess;
  readonly onProgress: (progress: TransferProgress) => void;
  /** Runs the put of the manifest, of which it has to be known whether it came to an end. */
  readonly commit: <T>(put: () => Promise<T>) => Promise<T>;
}

/** A committed point and what it added to the store. */
export interface WrittenPoint {
  readonly manifest: Manifest;
  readonly added: SinkTotals;
  /** What went wrong after the commit and is not lost; for people. */
  readonly warnings: readonly string[];
}

/**
 * Writes and commits a recovery point. Nothing is visible before the manifest is. When it throws
 * nothing is under way any more and the store stays usable; only where the store lost its answer to
 * the last put may the point exist, whole.
 *
 * @throws {KluisError} ArgumentInvalid (after-change) where the point could not be read back,
 *   RecoveryPointExists (never) where somebody committed this id; errors of the readers and the
 *   store; the reason of the signal.
 */
export async function writePoint(input: PointInput, deps: WriterDeps): Promise<WrittenPoint> {
  const name = pointName(toItemName(deps.keys, input.point.itemId), input.point.pointId);
  encodeManifest(draftOf(input));
  const startMs = deps.clock.monotonicMs();
  await using session = new WriteSession(deps);
  const scope: WriterDeps = { ...deps, signal: session.signal };
  const disks = await session.all(
    input.disks.map((disk) => async () => await writeDisk(disk, session, scope)),
  );
  await session.flush();
  session.endThreads();
  for (const { reader } of input.disks) await reader.assertUnchanged();
  const transferMs = Math.round(deps.clock.monotonicMs() - startMs);
  const manifest = {
    ...withTiming(input.point, transferMs),
    committedAtMs: deps.clock.nowMs(),
    disks,
  };
  const committed = await commit(name, manifest, scope);
  const warnings = await tellInventory(committed, session);
  const { totals } = session.sink;
  const bytes = totals.bytes + committed.sizeBytes;
  return { manifest, added: { ...totals, objects: totals.objects + 1, bytes }, warnings };
}

/** The point exists whatever happens here; what is not told now, `vault repair` or a collector tells. */
async function tellInventory(
  manifest: StoredObject,
  session: WriteSession,
): Promise<readonly string[]> {
  try {
    await session.sink.writeInventory([manifest]);
    return [];
  } catch (error) {
    const { message } = toKluisError(error);
    return [`${message} (the recovery point is committed; the inventory does not name it yet)`];
  }
}

function withTiming(
  { timing, ...point }: PointInput["point"],
  transferMs: number,
): Omit<Manifest, "disks" | "committedAtMs"> {
  return timing === undefined ? point : { ...point, timing: { ...timing, transferMs } };
}

/** The manifest as far as it is known before the transfer, which would be in vain if it is no good. */
function draftOf({ point, disks }: PointInput): Manifest {
  const none = { mappedBytes: 0, examinedBytes: 0, changedBytes: 0, newBytes: 0, storedBytes: 0 };
  const empty = { root: undefined, level: 0 };
  return {
    ...withTiming(point, 0),
    committedAtMs: 0,
    disks: disks.map((disk) => describeDisk(disk, empty, none)),
  };
}

async function writeDisk(
  disk: DiskInput,
  session: WriteSession,
  deps: WriterDeps,
): Promise<ManifestDisk> {
  const { reader, increment } = disk;
  const { sizeBytes } = reader;
  const map = createMapBuilder({
    sizeBytes,
    base: increment?.base.disk,
    access: deps.access,
    emit: (node) => session.map.add(node),
    signal: deps.signal,
  });
  const plan =
    increment === undefined ? await planWhole(disk, deps) : await planChanges(disk, deps);
  let doneBytes = 0;
  const pipeline = new DiskPipeline({
    session,
    reader,
    base: increment?.base.reader,
    map,
    checksumKey: deps.keys.checksumKey,
    onProgress: (bytes) => {
      doneBytes += bytes;
      deps.onProgress({ disk: disk.name, doneBytes, totalBytes: plan.totalBytes });
    },
  });
  const totals = await pipeline.run(plan.segments);
  const built = await map.finish();
  const base = increment?.base.disk;
  const healed = increment?.healing?.length ?? 0;
  const kept =
    base === undefined ? 0 : base.mappedBytes - (await countCutBytes(base, sizeBytes, deps));
  return {
    ...describeDisk(disk, built, { ...totals, mappedBytes: kept + totals.mappedBytes }),
    ...(healed > 0 && { healedBytes: healed * windowBytes }),
    ...(plan.sweep === undefined ? {} : { rewrite: plan.sweep.state }),
  };
}

/** Mapped bytes of the windows that a disk which shrank no longer has. */
async function countCutBytes(base: DiskMap, sizeBytes: number, deps: WriterDeps): Promise<number> {
  const firstWindow = windowsOf(sizeBytes);
  const windowCount = windowsOf(base.sizeBytes) - firstWindow;
  if (windowCount <= 0) return 0;
  let windows = 0;
  const range = { firstWindow, windowCount };
  const { access, signal } = deps;
  for await (const part of walkMap({ map: base, access, range, signal })) {
    for (let at = 0; at < (part.leaf === undefined ? 0 : part.windowCount); at++) {
      if (part.leaf?.windows[(part.firstWindow + at) % leafWindows] !== undefined) windows++;
    }
  }
  return windows * windowBytes;
}

function describeDisk(
  disk: DiskInput,
  built: { readonly root: Uint8Array | undefined; readonly level: number },
  totals: DiskTotals,
): ManifestDisk {
  return {
    name: disk.name,
    sizeBytes: disk.reader.sizeBytes,
    ...(disk.isEncrypted === true ? { isEncrypted: true } : {}),
    root: built.root,
    level: built.level,
    tracking: disk.tracking,
    ...(disk.trackingReason === undefined ? {} : { trackingReason: disk.trackingReason }),
    ...totals,
    ...countNamed(disk),
    examinedBytes: totals.examinedBytes + (disk.examinedBytes ?? 0),
    ...(disk.source === undefined ? {} : { source: disk.source }),
  };
}

function countNamed({ increment }: DiskInput): Pick<ManifestDisk, "namedBytes" | "namedRanges"> {
  if (increment === undefined) return {};
  let namedBytes = 0;
  for (const { lengthBytes } of increment.changes) namedBytes += lengthBytes;
  return { namedBytes, namedRanges: increment.changes.length };
}

interface Plan {
  readonly sweep?: RewriteSweep;
  readonly segments: Iterable<Segment> | AsyncIterable<Segment>;
  readonly totalBytes: number;
}

async function planWhole(disk: DiskInput, deps: WriterDeps): Promise<Plan> {
  const { dataWindows, reader } = disk;
  const looking = dataWindows ?? collectDataWindows(reader.extents(deps.signal));
  const runs = await untilAborted(looking, deps.signal);
  let windows = 0;
  for (const run of runs) windows += run.windows;
  return { segments: planFull(runs), totalBytes: windows * windowBytes };
}

async function planChanges(disk: DiskInput, deps: WriterDeps): Promise<Plan> {
  const { reader } = disk;
  const { base, changes, healing = [] } = present(disk.increment, "an increment has a base");
  const sizes = { sizeBytes: reader.sizeBytes, baseSizeBytes: base.disk.sizeBytes };
  const tail = sizes.sizeBytes > sizes.baseSizeBytes ? await readTail(reader, sizes, deps) : [];
  const extents = await dropKnownZeros(planResize(changes, sizes, tail), {
    base: base.disk,
    access: deps.access,
    signal: deps.signal,
  });
  // A second builder serves as a cursor over the base, ahead of the one that builds.
  const cursor = openCursor(base, sizes, deps);
  const counts = countTouched(extents);
  const sweep = new RewriteSweep({
    // Where only whole windows are known to differ, one page of each surely does.
    changedPages: disk.tracking === "checksum" ? counts.windows : counts.dataPages,
    state: base.disk.rewrite,
  });
  const limit = windowsOf(sizes.sizeBytes);
  const touched = withHealing(touchedWindows(extents), healing);
  const windows = planRewrites(touched, sweep, async (leafIndex) =>
    cutLeaf(await cursor.readLeaf(leafIndex), limit - leafIndex * leafWindows),
  );
  // A comparison by checksum names windows; what the base has of them is compared page by page.
  const other = disk.tracking === "checksum" ? openCursor(base, sizes, deps) : undefined;
  const isGuess = async (window: number): Promise<boolean> =>
    other !== undefined && window < limit && (await other.read(window)) !== undefined;
  return {
    sweep,
    segments: planIncrement(storeHealed(windows, healing), sizes.sizeBytes, isGuess),
    totalBytes: (counts.windows + healing.length) * windowBytes,
  };
}

/** The first `windows` windows of a leaf; those of a disk that shrank end before its base does. */
function cutLeaf(leaf: Leaf | undefined, windows: number): Leaf | undefined {
  if (leaf === undefined || windows >= leafWindows) return leaf;
  return { windows: leaf.windows.map((window, at) => (at < windows ? window : undefined)) };
}

function openCursor(
  base: DiskBase,
  sizes: { readonly sizeBytes: number; readonly baseSizeBytes: number },
  deps: WriterDeps,
): MapBuilder {
  return createMapBuilder({
    sizeBytes: Math.max(sizes.sizeBytes, sizes.baseSizeBytes),
    base: base.disk,
    access: deps.access,
    // A disk that grew gets nodes above its old root even if nothing is updated; none is stored here.
    emit: () => {},
  });
}

async function readTail(
  reader: DiskReader,
  sizes: { readonly baseSizeBytes: number },
  deps: WriterDeps,
): Promise<readonly Extent[]> {
  const tail: Extent[] = [];
  for await (const extent of reader.extents(deps.signal)) {
    const end = extent.offsetBytes + extent.lengthBytes;
    const start = Math.max(extent.offsetBytes, sizes.baseSizeBytes);
    if (end > start) tail.push({ ...extent, offsetBytes: start, lengthBytes: end - start });
  }
  return tail;
}

function countTouched(extents: ChangedExtents): { windows: number; dataPages: number } {
  let windows = 0;
  let dataPages = 0;
  for (const { pages } of touchedWindows(extents)) {
    windows++;
    for (const change of pages) if (change === pageChanges.data) dataPages++;
  }
  return { windows, dataPages };
}

/** Puts the manifest: from then on the point exists. */
async function commit(name: string, manifest: Manifest, deps: WriterDeps): Promise<StoredObject> {
  const { store, signal } = deps;
  const { bytes, name: sha256 } = buildContainer("manifest", encodeManifest(manifest), deps);
  const outcome = await deps.commit(async () => {
    if ((await store.put(name, [bytes], signal)) === "created") return "created";
    // It is ours where the store had lost the answer to an earlier attempt of this very put.
    const found = await store.get(name, undefined, signal);
    if (bytesEqual(found, bytes)) return "created";
    return found.byteLength === tombstoneBytes ? "fenced" : "exists";
  });
  if (outcome === "fenced") throw fenced("a collection took it for dead");
  if (outcome === "exists") {
    throw new KluisError(
      "RecoveryPointExists",
      `Cannot commit recovery point "${manifest.pointId}": one of that id exists`,
    );
  }
  return { name, sizeBytes: bytes.byteLength, sha256: toHex(sha256) };
}
