/**
 * An application writes each number into a SQLite database on one disk, then into one on another,
 * under a lock. Recovery points are taken while it writes: without freezing, with a freeze alone, and
 * with pre and post scripts that take and release the application's lock. Restored, the disks tell how
 * many rows they are apart, and whether a transaction was open.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";

import { replayExt4Journal } from "../lab/ext4.ts";
import {
  countRowsInGuest,
  countRowsInImage,
  installTwoDatabasesScripts,
  startTwoDatabases,
} from "../lab/two-databases.ts";
import { createProtectedVm, type ProtectedVm } from "../test/vm/protected-vm.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 20;
const rowsBetween = 3;
const rowsWaitMs = 120_000;
const rowsPollMs = 100;
const firstPath = "/data/vdb/a.db";
const secondPath = "/data/vdc/b.db";

const modes = ["crash", "file-system", "application"] as const;
type Mode = (typeof modes)[number];

/** What one recovery point held. */
interface Observation {
  /** Rows of the first database that the second did not have. */
  readonly apart: number;
  /** Whether a transaction was open in either. */
  readonly isOpen: boolean;
  readonly consistency: string;
}

/** Both disks of a point come from one instant; with the scripts that instant suits the application. */
export const evidence: Evidence = {
  name: "app-consistency",
  claim:
    "both disks of a recovery point show one instant, with pre and post scripts one between transactions",
  bar: "with scripts always application-consistent, 0 rows apart, no open transaction; else the consistency that was asked for, 0 or 1 row apart",
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const seen = new Map<Mode, readonly Observation[]>();
  for (const mode of modes) {
    const observations = await observe(mode, rounds, context);
    seen.set(mode, observations);
    context.log(`${mode}: ${describe(observations)}`);
  }
  const all = [...seen.values()].flat();
  const scripted = seen.get("application") ?? [];
  const isOneInstant = all.every(({ apart }) => apart === 0 || apart === 1);
  const isAsAsked = modes.every((mode) =>
    seen.get(mode)?.every(({ consistency }) => consistency === mode),
  );
  const isBetween = scripted.every(({ apart, isOpen }) => apart === 0 && !isOpen);
  return {
    figure: modes.map((mode) => `${mode}: ${describe(seen.get(mode) ?? [])}`).join("; "),
    holds: scripted.length === rounds && isAsAsked && isOneInstant && isBetween,
    ...(rounds === wholeRounds ? {} : { isPartial: true }),
  };
}

function describe(observations: readonly Observation[]): string {
  const apart = observations.map((observation) => observation.apart).join(" ");
  const open = observations.filter(({ isOpen }) => isOpen).length;
  return `rows apart ${apart}, transaction open in ${open} of ${observations.length}`;
}

/** Takes recovery points of a VM of its own while the application writes. */
async function observe(
  mode: Mode,
  rounds: number,
  context: EvidenceContext,
): Promise<readonly Observation[]> {
  await using world = await createProtectedVm();
  const { vm } = world;
  await vm.hypervisor.start(vm.vmId);
  if (mode === "application") await installTwoDatabasesScripts(vm.exec);
  await startTwoDatabases(vm.exec, firstPath, secondPath);
  const observations: Observation[] = [];
  let rows = 0;
  for (let round = 0; round < rounds; round++) {
    context.signal.throwIfAborted();
    rows = await waitForRows(world, rows + rowsBetween);
    const { manifest } = await world.backUp({ consistency: mode });
    const restored = await world.restore(manifest, `restored-${round}`);
    const first = await readDatabase(join(restored.directory, "vdb.raw"), "/a.db");
    const second = await readDatabase(join(restored.directory, "vdc.raw"), "/b.db");
    await rm(restored.directory, { recursive: true });
    observations.push({
      apart: first.rows - second.rows,
      isOpen: first.hadJournal || second.hadJournal,
      consistency: manifest.consistency,
    });
  }
  return observations;
}

async function readDatabase(
  image: string,
  path: string,
): Promise<{ readonly rows: number; readonly hadJournal: boolean }> {
  await replayExt4Journal(image);
  return await countRowsInImage(image, path);
}

async function waitForRows(world: ProtectedVm, least: number): Promise<number> {
  const deadlineMs = systemClock.monotonicMs() + rowsWaitMs;
  for (;;) {
    const rows = await countRows(world);
    if (rows !== undefined && rows >= least) return rows;
    if (systemClock.monotonicMs() > deadlineMs) {
      throw new Error(`The application wrote ${rows ?? "no"} rows instead of ${least}`);
    }
    await systemClock.sleep(rowsPollMs);
  }
}

/** `undefined` until the application has made its table. */
async function countRows(world: ProtectedVm): Promise<number | undefined> {
  try {
    return await countRowsInGuest(world.vm.exec, secondPath);
  } catch (error) {
    if (isKluisError(error, "AgentFailed") && error.message.includes("no such table"))
      return undefined;
    throw error;
  }
}
