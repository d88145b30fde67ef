/**
 * Kluis and virtnbdbackup back up VMs of libvirt that are clones of each other, after the same seeded
 * writes of 4 KiB pages in both: whole processes, in turns, with the freeze through the guest agent.
 *
 * virtnbdbackup runs with its defaults (bitmaps of 64 KiB, no compression; what is written is random).
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { BackupOutput } from "#contract/cli-output.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { benchFolder, repositoryFolder } from "../bench/folders.ts";
import { measureProcess } from "../bench/measured-process.ts";
import { median } from "../bench/statistics.ts";
import { storedBytesOf } from "../bench/stored-bytes.ts";
import { runInGuest } from "../lab/guest.ts";
import { type LibvirtVm, LibvirtVms } from "../lab/libvirt-vm.ts";
import { planFio } from "../lab/plan-fio.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { roundUp, toSeconds } from "../tools/evidence/peer-bar.ts";

const wallMost = 0.5;
const storedMost = 0.2;
const wholeRounds = 5;
const dataDiskMiB = 1024;
const changedPages = 2621;
const pageBytes = 4096;
const device = "/dev/vdb";
const toolTimeoutMs = 60_000;
const program = join(repositoryFolder, "bin/kluis.mjs");

/** What one backup took. */
interface Cost {
  readonly wallMs: number;
  readonly grownBytes: number;
}

/** A program with a clone of its own. */
interface Contender {
  readonly name: "kluis" | "virtnbdbackup";
  readonly vm: LibvirtVm;
  backUp(level: "full" | "inc"): Promise<Cost>;
}

/** Options for a try: `--rounds=N`, `--mib=N` (size of the data disk). */
export const evidence: Evidence = {
  name: "beside-virtnbdbackup",
  claim: "an increment of a libvirt VM takes a fraction of the time and space of virtnbdbackup's",
  bar: `increment ≤ ${wallMost} × its wall time and ≤ ${storedMost} × its bytes, medians of ${wholeRounds}`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const rounds = Number(context.options["rounds"] ?? wholeRounds);
  const diskMiB = Number(context.options["mib"] ?? dataDiskMiB);
  await using owned = new AsyncDisposableStack();
  const contenders: readonly Contender[] = [
    await openKluis(await startClone(diskMiB, owned), context),
    await openVirtnbdbackup(await startClone(diskMiB, owned), context),
  ];
  for (const contender of contenders) {
    await write(contender.vm, ["--rw=write", "--bs=1m", `--size=${diskMiB}m`, "--randseed=1"]);
    const { wallMs, grownBytes } = await contender.backUp("full");
    context.log(`${contender.name}, first: ${toSeconds(wallMs)}, ${grownBytes} B`);
  }
  const costs: Record<Contender["name"], Cost[]> = { kluis: [], virtnbdbackup: [] };
  for (let round = 0; round < rounds; round += 1) {
    for (const contender of contenders) {
      context.signal.throwIfAborted();
      await write(contender.vm, [...scattered(diskMiB), `--randseed=${round + 2}`]);
      const cost = await contender.backUp("inc");
      costs[contender.name].push(cost);
      context.log(`${contender.name}: ${toSeconds(cost.wallMs)}, ${cost.grownBytes} B`);
    }
  }
  const isTry = rounds !== wholeRounds || diskMiB !== dataDiskMiB;
  return { ...judge(costs), ...(isTry ? { isPartial: true } : {}) };
}

function judge(costs: Readonly<Record<Contender["name"], readonly Cost[]>>): EvidenceOutcome {
  const middle = (name: Contender["name"], of: keyof Cost): number =>
    median(costs[name].map((cost) => cost[of]));
  const wall = middle("kluis", "wallMs") / middle("virtnbdbackup", "wallMs");
  const stored = middle("kluis", "grownBytes") / middle("virtnbdbackup", "grownBytes");
  const from = (["kluis", "virtnbdbackup"] as const).map(
    (name) => `${name} ${toSeconds(middle(name, "wallMs"))}, ${middle(name, "grownBytes")} B`,
  );
  return {
    figure: `${roundUp(wall)} × the wall time, ${roundUp(stored)} × the bytes (${from.join("; ")})`,
    holds: wall <= wallMost && stored <= storedMost,
  };
}

function scattered(diskMiB: number): readonly string[] {
  const ioBytes = changedPages * pageBytes;
  return ["--rw=randwrite", "--bs=4k", `--size=${diskMiB}m`, `--io_size=${ioBytes}`];
}

/** A domain in a libvirt of its own; the system disk and the data disk are qcow2 images. */
async function startClone(diskMiB: number, owned: AsyncDisposableStack): Promise<LibvirtVm> {
  const vms = owned.use(await LibvirtVms.open([diskMiB]));
  const vm = owned.use(await vms.create());
  await vm.host.virsh.run(["start", vm.uuid]);
  await runInGuest(vm.exec, "umount /data/vdb");
  return vm;
}

async function write(vm: LibvirtVm, job: readonly string[]): Promise<void> {
  await runInGuest(vm.exec, 'fio "$@"', planFio(device, job));
}

async function openKluis(vm: LibvirtVm, context: EvidenceContext): Promise<Contender> {
  const folder = join(context.scratch, "kluis");
  await mkdir(folder);
  const store = join(folder, "store");
  const key = join(folder, "key");
  // Compiled code is kept, as by an installed program from its second start on.
  const env = { XDG_CACHE_HOME: join(benchFolder, "node-cache") };
  const place = ["--store", store, "--key-file", key];
  const create = [
    program,
    "vault",
    "create",
    ...place,
    "--recovery-key-file",
    join(folder, "rescue"),
  ];
  const created = await runTool(process.execPath, create, {
    timeoutMs: toolTimeoutMs,
    signal: context.signal,
    env,
  });
  assertToolSucceeded("kluis", created);
  const where = ["--connect", vm.host.uri, "--state", join(folder, "state")];
  const rest = [...place, "--cache", join(folder, "cache"), "--output", "json"];
  return {
    name: "kluis",
    vm,
    backUp: async (level) => {
      const before = await storedBytesOf(store);
      const { cost, stdout } = await measureProcess(
        process.execPath,
        [program, "vm", "backup", vm.uuid, ...where, ...rest],
        { scratch: context.scratch, syncFolder: folder, env, signal: context.signal },
      );
      assertWhole(JSON.parse(stdout) as BackupOutput, level);
      return { wallMs: cost.wallMs, grownBytes: (await storedBytesOf(store)) - before };
    },
  };
}

/** Frozen as the other program freezes, and what changed was tracked. */
function assertWhole({ point }: BackupOutput, level: "full" | "inc"): void {
  const wanted = level === "full" ? "full" : "snapshot-difference";
  const methods = point.disks.map(({ tracking }) => tracking);
  if (point.consistency === "file-system" && methods.every((method) => method === wanted)) return;
  throw new Error(`Cannot compare: the point is ${point.consistency}, ${methods.join()}`);
}

async function openVirtnbdbackup(vm: LibvirtVm, context: EvidenceContext): Promise<Contender> {
  const folder = join(context.scratch, "virtnbdbackup");
  const scratch = join(context.scratch, "virtnbdbackup-scratch");
  await mkdir(scratch, { mode: 0o755 });
  const where = ["-U", vm.host.uri, "-d", "lab", "-o", folder, "-S", scratch, "-n"];
  return {
    name: "virtnbdbackup",
    vm,
    backUp: async (level) => {
      const before = await storedBytesOf(folder);
      const { cost } = await measureProcess("virtnbdbackup", [...where, "-l", level], {
        scratch: context.scratch,
        syncFolder: context.scratch,
        signal: context.signal,
      });
      return { wallMs: cost.wallMs, grownBytes: (await storedBytesOf(folder)) - before };
    },
  };
}
