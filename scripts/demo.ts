/**
 * `npm run demo`: the main job on a real VM. VM up, initial backup, guest writes, incremental backup,
 * the disks are destroyed, restore, the restored VM boots, and its data is what the guest wrote.
 *
 * Nothing is simulated: QEMU runs the guest, the `kluis` command does the work, and the guest itself
 * takes the checksums. Ends with 0 only if everything matches.
 */
import { mkdir, open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import type { PointOutput } from "#contract/cli-output.ts";
import { formatBytes } from "#cli/format.ts";
import type { GuestExec } from "../lab/guest-exec.ts";
import {
  hashGuestFile,
  runInGuest,
  syncGuest,
  writeRandomPages,
  writeSeededFile,
} from "../lab/guest.ts";
import { createLabVm, type LabVm } from "../lab/lab-vm.ts";
import { cutPower, inGuest, pathsOf } from "./demo/demo-vm.ts";
import { readPoints, runKluis } from "./demo/run-kluis.ts";
import { Story, timed } from "./demo/story.ts";

const MiB = 1024 * 1024;
const vmName = "web";
const restoredName = "web-restored";
const seeds = { archive: 11, mail: 12, pages: 13, report: 14 } as const;
const archive = { path: "/data/vdb/archive.bin", sizeBytes: 96 * MiB } as const;
const mail = { path: "/data/vdc/mail.bin", sizeBytes: 32 * MiB } as const;
const report = { path: "/data/vdc/report.bin", sizeBytes: 6 * MiB } as const;
const changedPages = 500;
const pageBytes = 4096;

/** Checksums that the guest took, by path. */
type Checksums = ReadonlyMap<string, string>;

/** Everything that one run of the demo has. */
interface Demo {
  readonly story: Story;
  readonly lab: LabVm;
  readonly signal: AbortSignal;
  /** Options of every command on the vault, and on the VM. */
  readonly vault: readonly string[];
  readonly vm: readonly string[];
  readonly stateFolder: string;
}

async function main(): Promise<void> {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      interrupted.abort(new Error("The demo was stopped"));
    });
  }
  const story = new Story();
  console.log("Kluis: a real VM is backed up, destroyed and restored.");
  story.step("Make a VM: a Linux guest with a root disk and two data disks");
  const { result: lab, timeMs } = await timed(() =>
    createLabVm({ name: vmName, disks: "qcow2", start: "cold" }),
  );
  await using _ = lab;
  story.say(`made in ${(timeMs / 1000).toFixed(1)} s, in ${lab.directory} (removed at the end)`);
  const stateFolder = join(lab.directory, "state");
  await play({
    story,
    lab,
    signal: interrupted.signal,
    stateFolder,
    vault: ["--store", join(lab.directory, "vault"), "--key-file", join(lab.directory, "key")],
    vm: ["--vm", lab.descriptionPath, "--state", stateFolder],
  });
}

async function play(demo: Demo): Promise<void> {
  const { story } = demo;
  await startVm(demo);
  const before = await writeFirstData(demo);
  await backUpFirst(demo);
  const after = await changeData(demo, before);
  await backUpChanges(demo);
  await destroyDisks(demo);
  await restore(demo);
  await checkRestored(demo, after);
  story.close();
}

async function startVm(demo: Demo): Promise<void> {
  const { story, vm, lab, signal, stateFolder } = demo;
  const run = (words: readonly string[]): Promise<number> =>
    runKluis(story, lab.directory, words, signal);
  await run(["vm", "start", ...vm]);
  const { timeMs } = await timed(() =>
    inGuest(pathsOf(stateFolder, vmName).agentSocket, signal, (exec) => runInGuest(exec, "true")),
  );
  story.note({ what: "VM booted until its agent answered", figure: lab.accelerator, timeMs });
  await run(["vm", "list", ...vm]);
}

async function writeFirstData(demo: Demo): Promise<Checksums> {
  const { story } = demo;
  story.step("The guest writes to both data disks, and takes checksums");
  const { result, timeMs } = await timed(() =>
    guest(demo, vmName, async (exec) => {
      const sums = new Map<string, string>();
      for (const [file, seed] of [
        [archive, seeds.archive],
        [mail, seeds.mail],
      ] as const) {
        const { path, sizeBytes } = file;
        sums.set(path, await writeSeededFile(exec, path, { seed, sizeBytes }));
      }
      await syncGuest(exec);
      return sums;
    }),
  );
  showChecksums(story, result);
  const sizeBytes = archive.sizeBytes + mail.sizeBytes;
  story.note({ what: "Guest wrote", figure: formatBytes(sizeBytes), timeMs });
  return result;
}

async function backUpFirst(demo: Demo): Promise<void> {
  const { story, lab, vault, vm, signal } = demo;
  story.step("First backup: everything, encrypted and deduplicated, from a frozen instant");
  const run = (words: readonly string[]): Promise<number> =>
    runKluis(story, lab.directory, words, signal);
  const recoveryKeyFile = join(lab.directory, "recovery-key");
  await run(["vault", "create", ...vault, "--recovery-key-file", recoveryKeyFile]);
  const timeMs = await run(["vm", "backup", vmName, ...vm, ...vault]);
  const point = await newestPoint(demo);
  const { read, stored } = sumOf(point);
  const figure = `${formatBytes(read)} read, ${formatBytes(stored)} stored`;
  story.note({ what: "First backup", figure, timeMs });
  noteFreeze(story, point);
}

async function changeData(demo: Demo, before: Checksums): Promise<Checksums> {
  const { story } = demo;
  const pagesText = `${changedPages} scattered pages of 4 KiB`;
  story.step(`The guest changes ${pagesText} on one disk and adds a file to the other`);
  const { result, timeMs } = await timed(() =>
    guest(demo, vmName, async (exec) => {
      const sums = new Map(before);
      const pages = { seed: seeds.pages, pages: changedPages };
      sums.set(archive.path, await writeRandomPages(exec, archive.path, pages));
      const { path, sizeBytes } = report;
      sums.set(path, await writeSeededFile(exec, path, { seed: seeds.report, sizeBytes }));
      await syncGuest(exec);
      return sums;
    }),
  );
  showChecksums(story, result);
  const sizeBytes = changedPages * pageBytes + report.sizeBytes;
  story.note({ what: "Guest changed", figure: formatBytes(sizeBytes), timeMs });
  return result;
}

async function backUpChanges(demo: Demo): Promise<void> {
  const { story, lab, vault, vm, signal } = demo;
  story.step("Incremental backup: only what changed, known from the snapshot, is read and sent");
  const words = ["vm", "backup", vmName, ...vm, ...vault];
  const timeMs = await runKluis(story, lab.directory, words, signal);
  const point = await newestPoint(demo);
  for (const disk of point.disks) {
    const { name, changedBytes, storedBytes, sizeBytes } = disk;
    const sent = `${formatBytes(storedBytes)} stored`;
    story.say(
      `${name}: ${formatBytes(changedBytes)} of ${formatBytes(sizeBytes)} changed, ${sent}`,
    );
  }
  const { changed, stored } = sumOf(point);
  const figure = `${formatBytes(changed)} changed, ${formatBytes(stored)} stored`;
  story.note({ what: "Incremental backup", figure, timeMs });
  noteFreeze(story, point);
}

/** Kills the machine and overwrites its disks and all their layers. */
async function destroyDisks(demo: Demo): Promise<void> {
  const { story, lab, stateFolder } = demo;
  story.step("Disaster: the machine is killed, and its disks are overwritten and deleted");
  await cutPower(pathsOf(stateFolder, vmName).pidFile);
  const files = (await readdir(lab.directory)).filter((name) => name.includes(".qcow2"));
  for (const name of files) {
    const path = join(lab.directory, name);
    const { size } = await stat(path);
    await using handle = await open(path, "r+");
    await handle.write(new Uint8Array(Math.min(size, MiB)).fill(0xde), 0);
    await rm(path);
    story.say(`destroyed ${name} (${formatBytes(size)})`);
  }
  await rm(stateFolder, { recursive: true });
}

async function restore(demo: Demo): Promise<void> {
  const { story, lab, vault, signal } = demo;
  story.step("Restore: all disks in parallel, every block decrypted and checked");
  const directory = join(lab.directory, "restored");
  await mkdir(directory);
  const words = [
    "vm",
    "restore",
    vmName,
    "--name",
    restoredName,
    "--directory",
    directory,
    ...vault,
  ];
  const timeMs = await runKluis(story, lab.directory, words, signal);
  const { mapped } = sumOf(await newestPoint(demo));
  const rate = formatBytes((mapped * 1000) / timeMs);
  const figure = `${formatBytes(mapped)} of data (${rate}/s with start-up)`;
  story.note({ what: "Restore of all disks", figure, timeMs });
}

async function checkRestored(demo: Demo, expected: Checksums): Promise<void> {
  const { story, lab, signal, stateFolder } = demo;
  story.step("The restored VM boots, and its guest takes the same checksums");
  const description = join(lab.directory, "restored", `${restoredName}.json`);
  const words = ["vm", "start", "--vm", description, "--state", stateFolder];
  await runKluis(story, lab.directory, words, signal);
  const { result, timeMs } = await timed(() =>
    guest(demo, restoredName, async (exec) => {
      const sums = new Map<string, string>();
      for (const path of expected.keys()) sums.set(path, await hashGuestFile(exec, path));
      return sums;
    }),
  );
  for (const [path, sum] of expected) {
    const found = result.get(path);
    if (found !== sum) {
      throw new Error(
        `${path} differs: the guest wrote ${sum}, the restored one holds ${found ?? ""}`,
      );
    }
    story.good(`${path} ${sum.slice(0, 16)}… as written`);
  }
  const figure = `${expected.size} files of ${formatBytes(dataBytes)} equal`;
  story.note({ what: "Restored VM booted and checked", figure, timeMs });
}

const dataBytes = archive.sizeBytes + mail.sizeBytes + report.sizeBytes;

function guest<T>(demo: Demo, vm: string, work: (exec: GuestExec) => Promise<T>): Promise<T> {
  return inGuest(pathsOf(demo.stateFolder, vm).agentSocket, demo.signal, work);
}

async function newestPoint(demo: Demo): Promise<PointOutput> {
  const point = (await readPoints(demo.lab.directory, demo.vault)).at(-1);
  if (point === undefined) throw new Error("the vault lists no recovery point");
  return point;
}

function sumOf(point: PointOutput) {
  const sum = (key: "examinedBytes" | "changedBytes" | "storedBytes" | "mappedBytes"): number =>
    point.disks.reduce((bytes, disk) => bytes + disk[key], 0);
  return {
    read: sum("examinedBytes"),
    changed: sum("changedBytes"),
    stored: sum("storedBytes"),
    mapped: sum("mappedBytes"),
  };
}

function noteFreeze(story: Story, point: PointOutput): void {
  if (point.consistency !== "file-system" || point.frozenMs === undefined) {
    throw new Error(`the guest was not frozen: ${point.consistencyReason ?? "no reason is known"}`);
  }
  story.note({ what: "  guest frozen", figure: "file-system-consistent", timeMs: point.frozenMs });
}

function showChecksums(story: Story, sums: Checksums): void {
  for (const [path, sum] of sums) story.say(`${path} sha256 ${sum.slice(0, 16)}…`);
}

try {
  await main();
} catch (error) {
  console.error(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`);
  if (process.env["KLUIS_DEBUG"] === "1") console.error(error);
  process.exitCode = 1;
}
