/** The VM of a test of a hypervisor, what its guest does, and what is checked of its snapshots. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import type { ChangedExtents, DiskReader } from "#ports/disk.ts";
import type { Hypervisor, SnapshotDisk, VmSnapshot } from "#ports/hypervisor.ts";
import type { Prng } from "../seed.ts";

/** The unit of changes. */
export const PAGE = 4096;
/** What a discard takes at least. */
export const CLUSTER = 128 * 1024;

/** A disk of the guest that holds no file system, for tests to write as they like. */
export interface GuestDevice {
  /** Name of the disk. */
  readonly disk: string;
  /** Path of the block device in the guest. */
  readonly path: string;
  /** A multiple of 1 MiB; small, because the guest hashes it. */
  readonly sizeBytes: number;
}

/** A VM of one test, stopped. Its guest has a shell, dd, sha256sum, blkdiscard and a mounted file system. */
export interface HypervisorFixture extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  readonly vmId: string;
  readonly devices: readonly [GuestDevice, GuestDevice];
  /** Runs a shell script in the running guest, once its agent answers; returns what it printed. */
  run(script: string, stdin?: Uint8Array): Promise<string>;
  /** Ends the machine at once, as by a power cut. */
  cutPower(): Promise<void>;
  /** Shuts the guest down; resolves when the VM is stopped. */
  shutDown(): Promise<void>;
  /** The same VM through a new driver, as after a restart of Kluis. */
  reopen(): Promise<Hypervisor>;
  /** Content of the image at the disk's configured path, read by another program; the VM is stopped. */
  readConfiguredImage(disk: string): Promise<Uint8Array>;
}

/** What is needed to work in a guest. */
export type GuestFixture = Pick<HypervisorFixture, "run" | "devices">;

/** Asserts that work fails with that code. */
export async function rejectsWith(work: Promise<unknown>, code: ErrorCode): Promise<void> {
  await assert.rejects(work, (error: KluisError) => {
    assert.ok(isKluisError(error, code), `${code} is expected: ${error.message}`);
    return true;
  });
}

/** The disk of a snapshot by its name, which is there. */
export function diskOf(snapshot: VmSnapshot, name: string): SnapshotDisk {
  const disk = snapshot.disks.find((each) => each.name === name);
  assert.ok(disk !== undefined, `the snapshot has disk ${name}`);
  return disk;
}

/** Runs an endless loop in the guest, in a session of its own, and waits until it has begun. */
export async function startLoop(fixture: GuestFixture, script: string): Promise<void> {
  const quoted = script.replaceAll("'", "'\\''");
  await fixture.run(`setsid sh -c '${quoted}' </dev/null >/dev/null 2>&1 & sleep 0.3`);
}

/** Number n goes to the first device and then to the second, each durable before the next write; for ever. */
export async function startNumbers(fixture: GuestFixture): Promise<void> {
  const paths = fixture.devices.map(({ path }) => path).join(" ");
  const script = `n=1; while :; do for d in ${paths}; do
    printf '%-4095s\\n' $n | dd of=$d bs=${String(PAGE)} count=1 conv=notrunc,fsync iflag=fullblock 2>/dev/null
    done; n=$((n + 1)); done`;
  await startLoop(fixture, script);
}

/** SHA-256 of each device as the guest reads it. */
export async function hashDevices(fixture: GuestFixture): Promise<readonly string[]> {
  const paths = fixture.devices.map((device) => device.path).join(" ");
  const output = await fixture.run(`sha256sum ${paths}`);
  return output
    .trim()
    .split("\n")
    .map((line) => line.slice(0, 64));
}

/** SHA-256 of the same devices in a snapshot. */
export async function hashSnapshot(
  fixture: GuestFixture,
  snapshot: VmSnapshot,
): Promise<readonly string[]> {
  const hashes: string[] = [];
  for (const device of fixture.devices) {
    await using reader = await diskOf(snapshot, device.disk).open();
    assert.equal(reader.sizeBytes, device.sizeBytes);
    hashes.push(await hashReader(reader));
  }
  return hashes;
}

/** All of a small disk. */
export async function readWhole(reader: DiskReader): Promise<Uint8Array> {
  const whole = new Uint8Array(reader.sizeBytes);
  await reader.read(0, whole);
  return whole;
}

/** SHA-256 of a whole disk. */
export async function hashReader(reader: DiskReader): Promise<string> {
  return createHash("sha256")
    .update(await readWhole(reader))
    .digest("hex");
}

/** The number at the start of a disk; 0 where there is none. */
export async function readNumber(disk: SnapshotDisk): Promise<number> {
  await using reader = await disk.open();
  const page = Buffer.alloc(PAGE);
  await reader.read(0, page);
  const number = Number(page.toString("latin1").trim());
  return Number.isSafeInteger(number) ? number : 0;
}

/**
 * Writes, zeroes and discards random ranges of a device, durable on return; returns the pages that
 * were touched.
 */
export async function writeRandom(
  fixture: GuestFixture,
  device: GuestDevice,
  plan: { readonly prng: Prng; readonly writes: number },
): Promise<Set<number>> {
  const { prng, writes } = plan;
  const pages = device.sizeBytes / PAGE;
  const touched = new Set<number>();
  const parts: Uint8Array[] = [];
  const commands: string[] = [];
  for (let at = 0; at < writes; at += 1) {
    const kind = prng.below(5);
    const count = 1 + prng.below(8);
    const page = prng.below(pages - count);
    if (kind === 0) {
      // Whole clusters: of less a driver may keep what it likes.
      const cluster = prng.below(device.sizeBytes / CLUSTER);
      const range = `-o ${String(cluster * CLUSTER)} -l ${String(CLUSTER)}`;
      commands.push(`sync; blkdiscard ${range} ${device.path}`);
      addPages(touched, (cluster * CLUSTER) / PAGE, CLUSTER / PAGE);
      continue;
    }
    const zeros = kind === 1;
    const place = `of=${device.path} bs=${String(PAGE)} count=${String(count)} seek=${String(page)}`;
    const source = zeros ? "if=/dev/zero" : "iflag=fullblock";
    commands.push(`dd ${source} ${place} conv=notrunc,fsync 2>/dev/null`);
    if (!zeros) parts.push(prng.bytes(count * PAGE));
    addPages(touched, page, count);
  }
  // Of a discard that comes last nothing is dirty, so that sync alone would flush no cache.
  const flush = `dd if=/dev/null of=${device.path} conv=notrunc,fsync 2>/dev/null`;
  await fixture.run(`set -e\n${commands.join("\n")}\nsync; ${flush}`, Buffer.concat(parts));
  return touched;
}

function addPages(pages: Set<number>, first: number, count: number): void {
  for (let page = first; page < first + count; page += 1) pages.add(page);
}

/** What {@link assertChanges} compares. */
export interface ExpectedChanges {
  readonly base: VmSnapshot;
  readonly device: GuestDevice;
  /** Pages that were written or discarded since; others must not be named. */
  readonly pages: ReadonlySet<number>;
  /** The guest's hash of the device when the snapshot was taken. */
  readonly hash: string;
}

/**
 * The content is what the guest saw; every page that differs from the base is named; no page is
 * named that was not touched; `zero` pages hold zeros.
 */
export async function assertChanges(
  snapshot: VmSnapshot,
  expected: ExpectedChanges,
): Promise<void> {
  const disk = diskOf(snapshot, expected.device.disk);
  const answer = await disk.changesSince(expected.base.id);
  assert.ok(answer.known, answer.known ? "" : answer.reason);
  await using reader = await disk.open();
  const now = await readWhole(reader);
  assert.equal(createHash("sha256").update(now).digest("hex"), expected.hash);
  await using baseReader = await disk.openBase(expected.base.id);
  assert.ok(baseReader !== undefined, "the base is still there");
  const before = await readWhole(baseReader);
  const named = toPageKinds(answer.extents);
  for (let page = 0; page < now.byteLength / PAGE; page += 1) {
    const isSame = samePage(now, before, page);
    const kind = named.get(page);
    if (!isSame) assert.ok(kind !== undefined, `page ${String(page)} differs and is not named`);
    if (kind === undefined) continue;
    assert.ok(expected.pages.has(page), `page ${String(page)} is named and was not touched`);
    if (kind !== "zero") continue;
    const isZero = now.subarray(page * PAGE, (page + 1) * PAGE).every((byte) => byte === 0);
    assert.ok(isZero, `page ${String(page)} is called zero and holds data`);
  }
}

/** The kind of every page that is named. */
export function toPageKinds(extents: ChangedExtents): Map<number, string> {
  const pages = new Map<number, string>();
  let endBytes = 0;
  for (const { offsetBytes, lengthBytes, kind } of extents) {
    assert.ok(offsetBytes >= endBytes && lengthBytes > 0, "changes are in order");
    assert.equal(offsetBytes % PAGE, 0);
    endBytes = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < endBytes; at += PAGE) pages.set(at / PAGE, kind);
  }
  return pages;
}

/** Whether both hold the same in that page. */
export function samePage(a: Uint8Array, b: Uint8Array, page: number): boolean {
  const range = [page * PAGE, (page + 1) * PAGE] as const;
  return Buffer.compare(a.subarray(...range), b.subarray(...range)) === 0;
}
