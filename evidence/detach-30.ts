/**
 * A VM gets 30 layers on each disk and is left again: by Kluis while it runs, by a Kluis that is killed
 * at one step after the other, and by hand with the lines of the guide. What the guest wrote into each
 * layer, and afterwards, is written on the host too, with the same seeds, and compared with what other
 * programs read from the original images.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";

import { exportRawImage, readExt4File } from "../lab/ext4.ts";
import { runInGuest } from "../lab/guest.ts";
import { planFio } from "../lab/plan-fio.ts";
import { readTool } from "../lab/tools.ts";
import { ChildRun, type ChildPlan } from "../test/vm/child-run.ts";
import { createExactVm, type DriverName, type ExactVm } from "../test/vm/exactness/exact-vm.ts";
import { findPages } from "../test/vm/exactness/disk-model.ts";
import type { Evidence, EvidenceContext, EvidenceOutcome } from "../tools/evidence/evidence.ts";
import { repositoryRoot } from "../tools/tidy/source-files.ts";

const wholeLayers = 30;
/** Before the first disk is complete, when it is, before the second is, and when that is. */
const killSteps: readonly VmStep[] = [
  "detach-marked",
  "detach-pending",
  "detach-recorded",
  "detach-pending",
  "detach-finished",
];
const dataDiskMiB = 64;
const fileMiB = 4;
const rawDevice = "/dev/vdb";
const filePath = "/data/vdc/file";
const diskNames = ["vda", "vdb", "vdc"] as const;
const guide = "docs/guides/leaving.md";

const drivers = ["qemu", "libvirt"] as const;
const ways = ["running", "killed", "by hand"] as const;
type Way = (typeof ways)[number];

/** What a disk of the guest is written to, and the file on the host that gets the same. */
interface Twin {
  readonly inGuest: string;
  readonly onHost: string;
}

/** Options for a try: `--driver=NAME`, `--way=NAME`, `--layers=N`. */
export const evidence: Evidence = {
  name: "detach-30",
  claim: `after ${wholeLayers} layers a VM is left as it was found: the same paths, formats and configuration, nothing lost`,
  bar: `with the VM running, by a Kluis that is killed at ${killSteps.length} steps, and by hand as the guide says, under both drivers`,
  run,
};

async function run(context: EvidenceContext): Promise<EvidenceOutcome> {
  const { driver: wanted, way: wantedWay, layers = String(wholeLayers) } = context.options;
  const figures: string[] = [];
  const wrong: string[] = [];
  for (const driver of drivers) {
    if (wanted !== undefined && wanted !== driver) continue;
    for (const way of ways) {
      if (wantedWay !== undefined && wantedWay !== way) continue;
      context.signal.throwIfAborted();
      const plan = { driver, way, layers: Number(layers) };
      const left = await leave(plan);
      figures.push(`${driver}, ${way}: ${left.did}`);
      wrong.push(...left.wrong.map((what) => `${driver}, ${way}: ${what}`));
      context.log([figures.at(-1), ...left.wrong].join("; "));
    }
  }
  const isTry = wanted !== undefined || wantedWay !== undefined || Number(layers) !== wholeLayers;
  return {
    figure: [...figures, `${wrong.length} things wrong`, ...wrong].join("; "),
    holds: wrong.length === 0,
    ...(isTry ? { isPartial: true } : {}),
  };
}

/** What a VM's owner knows of it from outside. */
interface Look {
  /** Its lines; libvirt puts controllers into another order whenever it reads XML. */
  readonly configuration: readonly string[];
  /** `qemu-img info` of each image: format, what it lies on, size. */
  readonly images: readonly string[];
  readonly files: readonly string[];
}

async function look(vm: ExactVm): Promise<Look> {
  const images = await Promise.all(
    diskNames.map(async (disk) => {
      const text = await readTool("qemu-img", ["info", "-U", "--output=json", vm.imagePath(disk)]);
      const info = JSON.parse(text) as Readonly<Record<string, unknown>>;
      const { filename, format, "virtual-size": size, "backing-filename": below } = info;
      return JSON.stringify([filename, format, size, below]);
    }),
  );
  const names = await readdir(vm.directory);
  const files = names.filter((name) => name.includes("vd")).sort();
  const configuration = (await vm.configurations.read(vm.vmId)).split("\n");
  return { configuration, images, files };
}

async function leave(plan: {
  readonly driver: DriverName;
  readonly way: Way;
  readonly layers: number;
}): Promise<{ readonly did: string; readonly wrong: readonly string[] }> {
  const { way, layers } = plan;
  // Who forgets the record by hand forgets that the saved state of the lab's VM is used up.
  const start = way === "by hand" ? "cold" : "warm";
  await using vm = await createExactVm(plan.driver, dataDiskMiB, start);
  const before = await look(vm);
  await vm.hypervisor.start(vm.vmId);
  const twins = planTwins(vm);
  await fill(vm, twins);
  await makeLayers(vm, twins, layers);
  const startMs = systemClock.monotonicMs();
  let did = "";
  if (way === "running") await vm.hypervisor.detach(vm.vmId);
  else if (way === "killed") did = `, ${await detachUnderKills(vm)} kills`;
  else await leaveByHand(vm, plan.driver);
  const seconds = ((systemClock.monotonicMs() - startMs) / 1000).toFixed(1);
  if ((await vm.hypervisor.get(vm.vmId)).state === "stopped") await vm.hypervisor.start(vm.vmId);
  // What is written now is in the originals too.
  await writePages(vm, twins, layers + 1);
  await vm.shutDown();
  const wrong = [...compare(before, await look(vm)), ...(await compareContent(vm, twins))];
  return { did: `${layers} layers in ${seconds} s${did}`, wrong };
}

function planTwins(vm: ExactVm): readonly [Twin, Twin] {
  return [
    { inGuest: rawDevice, onHost: join(vm.directory, "twin-raw") },
    { inGuest: filePath, onHost: join(vm.directory, "twin-file") },
  ];
}

/** Gives every byte of both a content that is known; the raw disk without a file system, so that no boot mounts it. */
async function fill(vm: ExactVm, [raw, file]: readonly [Twin, Twin]): Promise<void> {
  await runInGuest(vm.exec, "umount /data/vdb");
  await writeTwin(vm, raw, ["--rw=write", "--bs=1m", `--size=${dataDiskMiB}m`, "--randseed=1"]);
  await writeTwin(vm, file, ["--rw=write", "--bs=1m", `--size=${fileMiB}m`, "--randseed=2"]);
}

/** The same bytes to the same places, durable in the guest on return. */
async function writeTwin(vm: ExactVm, twin: Twin, job: readonly string[]): Promise<void> {
  await Promise.all([
    runInGuest(vm.exec, 'fio "$@"', planFio(twin.inGuest, job)),
    readTool("fio", planFio(twin.onHost, job)),
  ]);
}

async function writePages(
  vm: ExactVm,
  [raw, file]: readonly [Twin, Twin],
  seed: number,
): Promise<void> {
  const job = ["--rw=randwrite", "--bs=4k", `--randseed=${seed}`];
  await writeTwin(vm, raw, [...job, `--size=${dataDiskMiB}m`, "--io_size=1m"]);
  await writeTwin(vm, file, [...job, `--size=${fileMiB}m`, "--io_size=40k"]);
}

async function makeLayers(
  vm: ExactVm,
  twins: readonly [Twin, Twin],
  layers: number,
): Promise<void> {
  for (let layer = 1; layer <= layers; layer += 1) {
    await vm.hypervisor.takeSnapshot(vm.vmId, { consistency: "crash", freezeBudgetMs: 1000 });
    await writePages(vm, twins, layer);
  }
  const space = await vm.hypervisor.readSpace(vm.vmId);
  if (space.some((disk) => disk.layers !== layers + 1)) throw new Error("there are not all layers");
}

/** Kills the process that detaches at one step after the other, then lets it; the guest goes on. */
async function detachUnderKills(vm: ExactVm): Promise<number> {
  for (const step of killSteps) {
    await using child = ChildRun.start({ ...planDetach(vm), waitAt: step });
    await child.waitForStep(step);
    await child.kill();
    await runInGuest(vm.exec, `echo ${step} >/data/vdc/goes-on; sync`);
  }
  await using child = ChildRun.start(planDetach(vm));
  const end = await child.outcome();
  if (end.kind === "failed") throw new Error(`${end.code}: ${end.message}`);
  return killSteps.length;
}

function planDetach(vm: ExactVm): ChildPlan {
  return { options: vm.driverOptions, vmId: vm.vmId, operation: { kind: "detach" } };
}

/** Where the lines for a driver begin in the guide. */
const marks = { qemu: "<!-- by-hand -->", libvirt: "<!-- by-hand-libvirt -->" } as const;

/** Runs the lines of the guide as they stand there. */
async function leaveByHand(vm: ExactVm, driver: DriverName): Promise<void> {
  const text = await readFile(join(repositoryRoot, guide), "utf8");
  const [, block = ""] = text.split(marks[driver]);
  const script = /```sh\n(.*?)```/su.exec(block)?.[1] ?? "exit 1";
  await vm.shutDown();
  const images = diskNames.map((disk) => vm.imagePath(disk)).join("\n");
  const options = vm.driverOptions;
  const connect = "uri" in options ? { CONNECT: options.uri } : {};
  const names = { VM: vm.vmId, STATE: options.stateDirectory, IMAGES: images };
  await runScript(script, { ...names, ...connect }, vm.directory);
}

async function runScript(
  script: string,
  variables: Readonly<Record<string, string>>,
  directory: string,
): Promise<void> {
  const values = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  await readTool("env", [`--chdir=${directory}`, ...values, "sh", "-c", script]);
}

function compare(before: Look, after: Look): string[] {
  return (["configuration", "images", "files"] as const).flatMap((part) =>
    [
      ...before[part]
        .filter((line) => !after[part].includes(line))
        .map((line) => `without ${line}`),
      ...after[part].filter((line) => !before[part].includes(line)).map((line) => `with ${line}`),
    ].map((line) => `${part} ${line}`),
  );
}

/** The raw disk and the file, from the original images, against what the same jobs wrote on the host. */
async function compareContent(
  vm: ExactVm,
  [raw, file]: readonly [Twin, Twin],
): Promise<readonly string[]> {
  const copy = join(vm.directory, "copy");
  await exportRawImage(vm.imagePath("vdc"), copy);
  const kept = (await readExt4File(copy, "/file")) ?? Buffer.alloc(0);
  const pairs = [
    { name: rawDevice, twin: raw, found: await readFile(vm.imagePath("vdb")) },
    { name: filePath, twin: file, found: Buffer.from(kept) },
  ];
  return (
    await Promise.all(
      pairs.map(async ({ name, twin, found }) => {
        const pages = findPages(found, await readFile(twin.onHost)).length;
        return pages === 0 ? [] : [`${name} does not hold what was written, in ${pages} pages`];
      }),
    )
  ).flat();
}
