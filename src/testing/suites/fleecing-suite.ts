/**
 * What every Hypervisor must do where an instant is kept aside instead of below the disks, on real
 * VMs; each driver runs this suite.
 *
 * The witness is independent of QEMU's filters: the machine is paused in the very moment of the
 * instant, and another program copies its images; the guest writes before, afterwards and while the
 * instant is read.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { FleecedSnapshot, FleeceRequest, Hypervisor } from "#ports/hypervisor.ts";
import { createPrng, testSeed } from "../seed.ts";
import {
  diskOf,
  hashDevices,
  readNumber,
  readWhole,
  rejectsWith,
  samePage,
  startLoop,
  startNumbers,
  toPageKinds,
  writeRandom,
  type HypervisorFixture,
} from "./hypervisor-fixture.ts";

/** A VM of one test, stopped. Both devices have no layers. */
export interface FleecingFixture extends Omit<
  HypervisorFixture,
  "shutDown" | "readConfiguredImage"
> {
  reopen(onStep?: (step: VmStep) => Promise<void>): Promise<Hypervisor>;
  /** Lets the running machine stand still, all requests done, and go on again. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Content of a disk whose machine stands still, read by another program. */
  copyDisk(disk: string): Promise<Uint8Array>;
  /** Names of nodes, exports and bitmaps of Kluis in the running QEMU, and its files beside the images. */
  listLeftovers(): Promise<readonly string[]>;
}

/** How the suite is run on one driver. */
export interface FleecingSuite {
  readonly open: () => Promise<FleecingFixture>;
  readonly rounds: number;
  /** Leaves out what does not depend on how a driver reaches QEMU; for a driver that is slow at that. */
  readonly isBrief?: boolean;
}

const PAGE = 4096;
const crash: FleeceRequest = { consistency: "crash", freezeBudgetMs: 1_000, reserveBytes: 0 };
const freeze: FleeceRequest = {
  consistency: "file-system",
  freezeBudgetMs: 10_000,
  reserveBytes: 0,
};

/** A driver that lets the machine stand still at the instant and copies the disks then. */
interface Witness {
  readonly hypervisor: Hypervisor;
  /** The copies of the last instant, in the order of the fixture's devices. */
  readonly copies: Uint8Array[];
}

async function openWitness(fixture: FleecingFixture): Promise<Witness> {
  const copies: Uint8Array[] = [];
  const hypervisor = await fixture.reopen(async (step) => {
    if (step === "frozen") {
      await fixture.pause();
      copies.length = 0;
      for (const { disk } of fixture.devices) copies.push(await fixture.copyDisk(disk));
    }
    if (step === "fleece-taken") await fixture.resume();
  });
  return { hypervisor, copies };
}

/** Pages in which two copies of a disk, of one size, differ. */
export function pagesThatDiffer(a: Uint8Array, b: Uint8Array): readonly number[] {
  const pages = Array.from({ length: a.byteLength / PAGE }, (_, page) => page);
  return pages.filter((page) => !samePage(a, b, page));
}

/** Endless writes of single pages all over a device, each other to the same place as before. */
function randomWriter(path: string, pages: number): string {
  return `n=1; while :; do n=$(((n * 1103515245 + 12345) % 2147483648))
    head -c ${String(PAGE)} /dev/urandom | dd of=${path} bs=${String(PAGE)} seek=$((n / 8 % ${String(pages)})) conv=notrunc,fsync iflag=fullblock 2>/dev/null
    done`;
}

/** Declares the tests of the suite for the driver called `name`. */
export function testFleecing(name: string, suite: FleecingSuite): void {
  test(`${name}: an instant kept aside equals the disks at that moment, under writes`, async () => {
    await using fixture = await suite.open();
    const { vmId, devices } = fixture;
    const { hypervisor, copies } = await openWitness(fixture);
    await hypervisor.start(vmId);
    for (const { path, sizeBytes } of devices) {
      await startLoop(fixture, randomWriter(path, sizeBytes / PAGE));
    }
    let base: { readonly id: string; readonly copies: readonly Uint8Array[] } | undefined;
    for (let round = 0; round < suite.rounds; round += 1) {
      const request = round % 2 === 0 ? crash : freeze;
      await using fleece = await hypervisor.takeFleecedSnapshot(vmId, request);
      const expected = [...copies];
      if (round % 2 === 1) assert.equal(fleece.consistency.consistency, "file-system");
      for (const [at, device] of devices.entries()) {
        const disk = diskOf(fleece, device.disk);
        await using reader = await disk.open();
        // Twice: the second time the guest has overwritten more of it.
        for (const _ of [1, 2]) {
          const differ = pagesThatDiffer(await readWhole(reader), expected[at] as Uint8Array);
          assert.deepEqual(differ, [], `${device.disk} differs from the witness`);
        }
        if (base === undefined) continue;
        await assertNamed(fleece, { disk: device.disk, base, at, expected });
      }
      // A transfer that fails in between leaves the base where it is.
      if (round % 3 === 2) continue;
      await fleece.markBase("vault");
      base = { id: fleece.id, copies: expected };
    }
    const left = await fixture.listLeftovers();
    assert.ok(
      left.every((each) => each.startsWith("bitmap ")),
      left.join(", "),
    );
  });

  testLifetime(name, suite);

  if (suite.isBrief === true) return;

  test(`${name}: bitmaps name exactly what was written or discarded, across a failed transfer`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    for (const device of devices) await writeRandom(fixture, device, { prng, writes: 6 });
    let baseId: string;
    {
      await using first = await hypervisor.takeFleecedSnapshot(vmId, crash);
      await first.markBase("vault");
      baseId = first.id;
    }
    const touched = devices.map(() => new Set<number>());
    for (const isKept of [false, true, true]) {
      for (const [at, device] of devices.entries()) {
        const pages = await writeRandom(fixture, device, { prng, writes: 8 });
        for (const page of pages) touched[at]?.add(page);
      }
      await using fleece = await hypervisor.takeFleecedSnapshot(vmId, crash);
      for (const [at, device] of devices.entries()) {
        const answer = await diskOf(fleece, device.disk).changesSince(baseId);
        assert.ok(answer.known && answer.method === "dirty-bitmap");
        const named = [...toPageKinds(answer.extents).keys()].sort((a, b) => a - b);
        const written = [...(touched[at] ?? [])].sort((a, b) => a - b);
        assert.deepEqual(named, written, device.disk);
      }
      if (!isKept) continue;
      await fleece.markBase("vault");
      baseId = fleece.id;
      for (const pages of touched) pages.clear();
    }
  });

  test(`${name}: an instant kept aside is one of all disks`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await hypervisor.start(vmId);
    const [first, second] = devices;
    await startNumbers(fixture);
    let last = 0;
    for (let round = 0; round < suite.rounds; round += 1) {
      await using fleece = await hypervisor.takeFleecedSnapshot(vmId, crash);
      const ahead = await readNumber(diskOf(fleece, first.disk));
      const behind = await readNumber(diskOf(fleece, second.disk));
      assert.ok(ahead - behind === 0 || ahead - behind === 1, `${String(ahead)}/${String(behind)}`);
      assert.ok(behind >= last, "numbers grow");
      last = behind;
    }
    assert.ok(last > 0, "the writer wrote");
  });
}

/** What an instant stands and falls with. */
function testLifetime(name: string, suite: FleecingSuite): void {
  test(`${name}: an instant kept aside goes with its VM, and stands in the way of others`, async () => {
    await using fixture = await suite.open();
    const { hypervisor, vmId, devices } = fixture;
    await rejectsWith(hypervisor.takeFleecedSnapshot(vmId, crash), "VmStateWrong");
    await hypervisor.start(vmId);
    const prng = createPrng(testSeed());
    await writeRandom(fixture, devices[0], { prng, writes: 6 });
    const other = await fixture.reopen();
    let baseId: string;
    {
      await using fleece = await hypervisor.takeFleecedSnapshot(vmId, crash);
      await fleece.markBase("vault");
      baseId = fleece.id;
      await rejectsWith(other.takeFleecedSnapshot(vmId, crash), "Busy");
      await rejectsWith(other.takeSnapshot(vmId, crash), "Busy");
      await rejectsWith(other.beginTransfer(vmId), "Busy");
      assert.deepEqual(await other.listSnapshots(vmId), []);
      await using reader = await diskOf(fleece, devices[0].disk).open();
      await readWhole(reader);
      await fixture.cutPower();
      await rejectsWith(readWhole(reader), "DiskReadFailed");
      await rejectsWith(diskOf(fleece, devices[1].disk).open(), "DiskReadFailed");
    }
    await hypervisor.start(vmId);
    assert.deepEqual(await fixture.listLeftovers(), []);
    const hashes = await hashDevices(fixture);
    {
      await using fleece = await hypervisor.takeFleecedSnapshot(vmId, freeze);
      const answer = await diskOf(fleece, devices[0].disk).changesSince(baseId);
      assert.ok(!answer.known && /stopped/.test(answer.reason), "the bitmap went with its QEMU");
    }
    await hypervisor.takeSnapshot(vmId, crash);
    await rejectsWith(hypervisor.takeFleecedSnapshot(vmId, crash), "VmStateWrong");
    assert.deepEqual(await hashDevices(fixture), hashes);
  });
}

/**
 * Asserts that every page that differs from the base is named, and that those called zero hold zeros.
 *
 * @param round Copies of the disks at both instants, by a program that shares nothing with Kluis; `at`
 *   is the place of `disk` among them.
 */
export async function assertNamed(
  fleece: FleecedSnapshot,
  round: {
    readonly disk: string;
    readonly at: number;
    readonly base: { readonly id: string; readonly copies: readonly Uint8Array[] };
    readonly expected: readonly Uint8Array[];
  },
): Promise<void> {
  const answer = await diskOf(fleece, round.disk).changesSince(round.base.id);
  assert.ok(answer.known, answer.known ? "" : answer.reason);
  const named = toPageKinds(answer.extents);
  const now = round.expected[round.at] as Uint8Array;
  for (const page of pagesThatDiffer(now, round.base.copies[round.at] as Uint8Array)) {
    assert.ok(named.has(page), `page ${String(page)} of ${round.disk} differs and is not named`);
  }
  for (const [page, kind] of named) {
    if (kind !== "zero") continue;
    const bytes = now.subarray(page * PAGE, (page + 1) * PAGE);
    assert.ok(
      bytes.every((byte) => byte === 0),
      `page ${String(page)} is called zero and holds data`,
    );
  }
}
