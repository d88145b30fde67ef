/**
 * Goal: only where Kluis takes a guest's room is a transfer stopped or a snapshot given up; a file
 * system that was full before and on which nothing of Kluis grows costs nothing. Method: a
 * hypervisor that says what is free, and notes what is asked of it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { DiskSpace } from "#ports/hypervisor.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { watchSpace, withSpaceWatch, type SpaceWatch, type SpaceWatchDeps } from "./watch-space.ts";

const small: DiskSpace = {
  name: "vdb",
  folder: "/b",
  fileSystem: "2",
  freeBytes: 9,
  allocatedBytes: 100,
  layers: 1,
};
const roomy: DiskSpace = {
  ...small,
  name: "vda",
  folder: "/a",
  fileSystem: "1",
  freeBytes: 100,
  layers: 2,
};
const watch: SpaceWatch = { vmId: "web", disks: ["vda"], space: { reserveBytes: 10 } };

/** What is free changes to `after` once something was released. */
function fakeVm(now: readonly DiskSpace[], after: readonly DiskSpace[] = now) {
  const clock = new ManualClock();
  const asked: string[] = [];
  const deps: SpaceWatchDeps = {
    clock,
    hypervisor: {
      readSpace: () => Promise.resolve(asked.length === 0 ? now : after),
      listSnapshots: () => Promise.resolve([]),
      releaseSnapshots: () => Promise.resolve(void asked.push("release")),
      detach: () => Promise.resolve(void asked.push("detach")),
    },
  };
  return { clock, asked, deps };
}

/** Work of three looks. */
async function work(clock: ManualClock, signal: AbortSignal): Promise<string> {
  for (let look = 0; look < 3; look++) {
    await clock.advance(1000);
    signal.throwIfAborted();
  }
  return "sent";
}

test("watch: a full file system of a disk that was left out and has no layers stops nothing", async () => {
  const { clock, asked, deps } = fakeVm([roomy, small]);
  assert.equal(await withSpaceWatch(watch, deps, (signal) => work(clock, signal)), "sent");
  assert.equal(await watchSpace(watch, deps, (signal) => work(clock, signal)), "sent");
  assert.deepEqual(asked, []);
});

test("watch: a disk of the instant stops the work, with layers or without", async () => {
  for (const disk of [small, { ...small, layers: 2 }]) {
    const { clock, asked, deps } = fakeVm([roomy, disk]);
    const given = { ...watch, disks: ["vda", "vdb"] };
    const watched = watchSpace(given, deps, (signal) => work(clock, signal));
    await assert.rejects(watched, (error) => isKluisError(error, "SnapshotNoSpace"));
    assert.deepEqual(asked, []);
  }
});

test("watch: layers of older snapshots are given up where they take the room, and no more than that", async () => {
  const layered = { ...small, layers: 2 };
  const cases = [
    { after: [roomy, { ...layered, freeBytes: 10 }], done: ["release"] },
    { after: [roomy, layered], done: ["release", "detach"] },
    // What is short now, and always was, gained nothing by the snapshots.
    { after: [roomy, small], done: ["release"] },
  ];
  for (const { after, done } of cases) {
    const { clock, asked, deps } = fakeVm([roomy, layered], after);
    const watched = withSpaceWatch(watch, deps, (signal) => work(clock, signal));
    await assert.rejects(watched, (error) => isKluisError(error, "SnapshotNoSpace"));
    assert.deepEqual(asked, done);
  }
});
