/**
 * A guest whose PostgreSQL, its data and its write-ahead log on two disks, takes transactions all the
 * time; each number that it acknowledged is heard outside of the guest. Application-consistent points are
 * taken by the shipped pre and post scripts and restored to fresh disks; a guest is booted on them,
 * PostgreSQL recovers, and is asked for every number that was heard before the disks switched.
 *
 * PostgreSQL recovers as well from what a power cut would leave, if all disks show one instant: that is
 * what this shows, and that the shipped scripts do their work in it. What a freeze and scripts add is
 * shown by `app-consistency`, beside rounds without them.
 */
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import type { RecoveryPoint } from "#vault/recovery-point.ts";

import { Acknowledgements } from "../lab/acknowledged-writer.ts";
import { ensureImage } from "../lab/build.ts";
import { describeGuest } from "../lab/guest-kind.ts";
import { runInGuest, startInGuest } from "../lab/guest.ts";
import { startMachine } from "../lab/machine.ts";
import { createProtectedVm, type ProtectedVm } from "../test/vm/protected-vm.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";

const wholeRounds = 20;
const dataDisksMiB = [192, 192];
const seed = 11;
/** Transactions between two points, at least. */
const transactionsBetween = 20;
const ackTimeoutMs = 300_000;
const scriptFiles = ["pre.sh", "post.sh", "VMSnapshotScriptPluginConfig.json"] as const;

/** What one point held. */
interface Observation {
  readonly consistency: string;
  readonly reason: string | undefined;
  /** The highest number heard when the guest was frozen. */
  readonly heard: number;
  /** The highest number in the restored database. */
  readonly restored: number;
  /** Whether no lower number is missing there. */
  readonly isWhole: boolean;
}

/** "Acknowledged before the freeze": heard on the host when the freeze was complete. Option: `--rounds=20`. */
export const evidence: Evidence = {
  name: "postgres-guest",
  claim:
    "PostgreSQL, data and log on two disks, recovers from a point that its shipped scripts were run for: the disks show one instant, and every transaction acknowledged before it is there",
  bar: `${wholeRounds} points, each application-consistent by the shipped scripts, restored to fresh disks, booted and recovered, with nothing missing`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const observations = await observe(rounds, context);
  const good = observations.filter(
    ({ consistency, heard, restored, isWhole }) =>
      consistency === "application" && isWhole && restored >= heard,
  );
  const last = observations.at(-1);
  const beyond = observations.map(({ heard, restored }) => restored - heard).join(" ");
  return {
    figure: `${good.length} of ${observations.length} points application-consistent and whole; ${last?.heard ?? 0} transactions heard before the last freeze; rows beyond the last one heard ${beyond}`,
    holds: observations.length === rounds && good.length === rounds,
    ...(rounds >= wholeRounds ? {} : { isPartial: true }),
  };
}

async function observe(rounds: number, context: EvidenceContext): Promise<readonly Observation[]> {
  const freeze = { heard: -1, acks: undefined as Acknowledgements | undefined };
  await using world = await createProtectedVm({
    guest: "postgres",
    dataDisksMiB,
    onStep: (step) => {
      if (step === "frozen") freeze.heard = freeze.acks?.lastNumber ?? -1;
      return Promise.resolve();
    },
  });
  const { vm } = world;
  await vm.hypervisor.start(vm.vmId);
  await installScripts(world);
  await runInGuest(vm.exec, "lab-postgres init && lab-postgres start");
  using acks = await Acknowledgements.open(vm.paths.ackSocket, seed);
  freeze.acks = acks;
  await startInGuest(vm.exec, ["lab-postgres", "write", String(seed)]);
  const observations: Observation[] = [];
  for (let round = 0; round < rounds; round += 1) {
    context.signal.throwIfAborted();
    await acks.waitFor(acks.lastNumber + transactionsBetween, ackTimeoutMs);
    const { manifest } = await world.backUp({ consistency: "application" });
    const { heard } = freeze;
    const found = await recover(world, manifest, context);
    const { consistency, consistencyReason: reason } = manifest;
    const observation = { consistency, reason, heard, ...found };
    context.log(`point ${round + 1}: ${JSON.stringify(observation)}`);
    observations.push(observation);
  }
  return observations;
}

/** Puts the shipped scripts where examples/scripts/README.md says. */
async function installScripts({ vm }: ProtectedVm): Promise<void> {
  const folder = join(repositoryRoot, "examples/scripts/postgresql");
  const contents = await Promise.all(
    scriptFiles.map((name) => readFile(join(folder, name), "utf8")),
  );
  const script = `umask 077; mkdir -p /etc/azure/postgresql && cd /etc/azure/postgresql &&
    printf %s "$1" >pre.sh && printf %s "$2" >post.sh && chmod 700 pre.sh post.sh &&
    printf %s "$3" >../VMSnapshotScriptPluginConfig.json`;
  await runInGuest(vm.exec, script, contents);
}

/** Restores a point, boots a guest on its disks, and asks PostgreSQL. */
async function recover(
  world: ProtectedVm,
  point: RecoveryPoint,
  context: EvidenceContext,
): Promise<Pick<Observation, "restored" | "isWhole">> {
  const { directory } = await world.restore(point, "restored");
  const run = join(directory, "run");
  await mkdir(run);
  const disks = point.disks.map(({ name }) => {
    return { name, path: join(directory, `${name}.raw`), format: "raw" } as const;
  });
  const image = await ensureImage("postgres");
  const description = describeGuest("postgres", { image, name: "restored", disks });
  {
    const { accelerator } = world.vm.lab;
    const { signal } = context;
    await using machine = await startMachine(description, { directory: run, accelerator, signal });
    await runInGuest(machine.exec, "lab-postgres start");
    const said = await runInGuest(machine.exec, "lab-postgres check");
    const [, highest, state] = said.trim().split(" ");
    await rm(directory, { recursive: true });
    return { restored: Number(highest), isWhole: state === "whole" };
  }
}
