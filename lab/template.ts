/**
 * Templates: a guest with its data disks, booted once, its machine state saved beside the disks as
 * they were at that moment. A VM that starts from it on overlays answers in a fraction of a second.
 */
import { chmod, readFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { cpuModel, machineType, planQemuArguments } from "#drivers/qemu/arguments.ts";
import type { DescribedDisk } from "#drivers/qemu/description.ts";
import { ensureAccelerator, type Accelerator } from "./accelerator.ts";
import { ensureImage } from "./build.ts";
import { ensureEntry } from "./cache.ts";
import { describeGuest, type GuestKind } from "./guest-kind.ts";
import { writeExt4Image } from "./guest-tree.ts";
import { startMachine, type Machine } from "./machine.ts";
import { readTool } from "./tools.ts";

const recipeVersion = 1;
const bytesPerMiB = 1024 * 1024;
const saveTimeoutMs = 120_000;
const savePollMs = 20;
const readOnlyMode = 0o444;
const stateFile = "state";

/** What a template is made for. */
export interface TemplateOptions {
  readonly guest: GuestKind;
  /** Sizes of the data disks vdb, vdc … in MiB, each with an empty ext4 mounted at /data/NAME. */
  readonly dataDisksMiB: readonly number[];
}

/** A template in the cache. Nothing in it is ever written. */
export interface Template {
  readonly guest: GuestKind;
  readonly image: string;
  readonly accelerator: Accelerator;
  /** Raw images, read-only: `vda`, `vdb` …, as they were when the state was saved. */
  readonly disks: readonly DescribedDisk[];
  /** QEMU's `-incoming` that loads the saved state. */
  readonly incoming: string;
}

/** What this process looked up already: an entry in use stays in the cache. */
const known = new Map<string, Promise<Template>>();

/** Returns the template for `options`, booted and saved first where the cache has none. */
export function ensureTemplate(options: TemplateOptions): Promise<Template> {
  const key = JSON.stringify([options.guest, options.dataDisksMiB]);
  const template = known.get(key) ?? findTemplate(options);
  known.set(key, template);
  template.catch(() => known.delete(key));
  return template;
}

async function findTemplate(options: TemplateOptions): Promise<Template> {
  const image = await ensureImage(options.guest);
  const accelerator = await ensureAccelerator();
  const names = diskNames(options.dataDisksMiB.length);
  const recipe = { ...(await machineRecipe(options, image, names)), accelerator };
  const directory = await ensureEntry(`template-${options.guest}`, recipe, async (draft) => {
    await writeDisks(draft, { image, names, sizesMiB: options.dataDisksMiB });
    await saveState(draft, { guest: options.guest, image, names, accelerator });
  });
  return {
    guest: options.guest,
    image,
    accelerator,
    disks: rawDisks(directory, names),
    incoming: `exec:cat ${quoteForShell(join(directory, stateFile))}`,
  };
}

/** Everything that decides whether a saved state fits: layout, QEMU, processor. */
async function machineRecipe(
  options: TemplateOptions,
  image: string,
  names: readonly string[],
): Promise<Readonly<Record<string, unknown>>> {
  const description = describeGuest(options.guest, {
    image,
    name: "template",
    disks: rawDisks("/", names),
  });
  const paths = { qmpSocket: "q", agentSocket: "a", ackSocket: "k", pidFile: "p" };
  const runtime = { paths, accelerator: "tcg", daemonize: false } as const;
  const processors = await readFile("/proc/cpuinfo", "utf8");
  return {
    recipeVersion,
    ...options,
    machineType,
    cpuModel,
    arguments: planQemuArguments(description, runtime),
    qemu: await readTool("qemu-system-x86_64", ["--version"]),
    processor: /^model name.*$/mu.exec(processors)?.[0] ?? "",
  };
}

/** `vda` and one more name for each data disk. */
export function diskNames(dataDisks: number): readonly string[] {
  return Array.from(
    { length: dataDisks + 1 },
    (_, index) => `vd${String.fromCharCode(97 + index)}`,
  );
}

/** The images of a template in `directory`. */
export function rawDisks(directory: string, names: readonly string[]): readonly DescribedDisk[] {
  return names.map((name) => ({ name, path: join(directory, `${name}.raw`), format: "raw" }));
}

/** The disks of a template: the root of a guest's image, and empty data disks. */
export interface DiskPlan {
  readonly image: string;
  readonly names: readonly string[];
  readonly sizesMiB: readonly number[];
}

/** Writes the images of {@link rawDisks}. */
export async function writeDisks(directory: string, plan: DiskPlan): Promise<void> {
  const [root, ...data] = rawDisks(directory, plan.names);
  await copySparse(join(plan.image, "root.raw"), root?.path ?? "");
  for (const [index, disk] of data.entries()) {
    const sizeBytes = (plan.sizesMiB[index] ?? 0) * bytesPerMiB;
    await writeExt4Image(disk.path, { sizeBytes, label: disk.name });
  }
}

async function copySparse(from: string, to: string): Promise<void> {
  await readTool("cp", ["--sparse=always", "--reflink=auto", from, to]);
}

interface SavePlan {
  readonly guest: GuestKind;
  readonly image: string;
  readonly names: readonly string[];
  readonly accelerator: Accelerator;
}

async function saveState(directory: string, plan: SavePlan): Promise<void> {
  const disks = rawDisks(directory, plan.names);
  const description = describeGuest(plan.guest, { image: plan.image, name: "template", disks });
  {
    await using machine = await startMachine(description, {
      directory,
      accelerator: plan.accelerator,
    });
    await warmCaches(machine);
    await migrateToFile(machine, join(directory, stateFile));
  }
  for (const disk of disks) await chmod(disk.path, readOnlyMode);
}

/** Runs what tests run, so that it lies in the guest's page cache and clones start it at once. */
export async function warmCaches(machine: Pick<Machine, "exec">): Promise<void> {
  const script =
    "fio --version; sqlite3 :memory: 'select 1'; flock /run/warm true; sha256sum /etc/passwd; sync";
  const result = await machine.exec({ path: "/bin/sh", args: ["-c", script] });
  if (result.exitCode !== 0) {
    throw new KluisError("VmStartFailed", `Cannot prepare the lab guest: ${result.stderr}`);
  }
}

interface MigrationStatus {
  readonly status?: string;
  readonly "error-desc"?: string;
}

async function migrateToFile(machine: Machine, path: string): Promise<void> {
  await machine.qmp.request("migrate-set-parameters", { "max-bandwidth": 10 * 1024 ** 3 });
  await machine.qmp.request("migrate", { uri: `exec:cat >${quoteForShell(path)}` });
  const deadlineMs = systemClock.monotonicMs() + saveTimeoutMs;
  for (;;) {
    const state = (await machine.qmp.request("query-migrate")) as MigrationStatus;
    if (state.status === "completed") return;
    const isOver = state.status === "failed" || state.status === "cancelled";
    if (isOver || systemClock.monotonicMs() > deadlineMs) {
      const reason = state["error-desc"] ?? state.status ?? "no answer";
      throw new KluisError("VmStartFailed", `Cannot save the state of the lab guest: ${reason}`);
    }
    await systemClock.sleep(savePollMs);
  }
}

/** `text` as one word of the shell that QEMU's `exec:` runs. */
function quoteForShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
