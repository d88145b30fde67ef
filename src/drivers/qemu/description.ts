/** The description file of a VM that Kluis starts: what it is, how it is read, what it may not say. */
import { isAbsolute, resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";

/** Limits of a description; each is far above what a real VM needs. */
export const descriptionLimits = {
  textBytes: 256 * 1024,
  disks: 16,
  cpus: 64,
  memoryMiBMin: 32,
  memoryMiBMax: 1024 * 1024,
  extraArguments: 64,
  argumentChars: 4096,
} as const;

/** Formats of a disk that a VM can run on. */
export type DiskFormat = "qcow2" | "raw";

/** One disk of a description. */
export interface DescribedDisk {
  /** `[a-z][a-z0-9]{0,11}`; also the serial number that the guest sees. */
  readonly name: string;
  /** Absolute path of the original image; it never changes, whatever layers lie on top. */
  readonly path: string;
  readonly format: DiskFormat;
}

/** A VM as described. Paths are absolute. */
export interface VmDescription {
  readonly name: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append?: string;
  /** At least one; order is the order of the devices. */
  readonly disks: readonly DescribedDisk[];
  /** Saved machine state for the very first start only (QEMU's `-incoming`). */
  readonly incoming?: string;
  /** Adds the virtio-serial port `kluis.lab.ack`. */
  readonly ackChannel: boolean;
  readonly extraArguments: readonly string[];
}

/** Options of QEMU that a description may not name: Kluis owns them, or they add or drop disks unseen. */
const refusedArguments = new Set(
  [
    "-snapshot -drive -blockdev -hda -hdb -hdc -hdd -cdrom -fda -fdb -mtdblock -pflash -sd",
    "-usbdevice -readconfig -preconfig -S -loadvm -daemonize -pidfile -incoming -qmp -qmp-pretty",
    "-mon -monitor -name -machine -M -cpu -accel -m -smp -kernel -initrd -append",
  ].flatMap((line) => line.split(" ")),
);

const fields = new Set(
  "name memoryMiB cpus kernel initrd append disks incoming ackChannel extraArguments".split(" "),
);

/**
 * Reads a description.
 *
 * @param text JSON, at most 256 KiB.
 * @param sourcePath Absolute path of the file, for messages; relative paths inside are taken from
 *   its folder.
 * @throws KluisError ConfigInvalid (after-change), naming the field.
 */
export function parseVmDescription(text: string, sourcePath: string): VmDescription {
  const fail = createFail(sourcePath);
  if (Buffer.byteLength(text) > descriptionLimits.textBytes) throw fail("", "it is too long");
  const root = parseObject(text, fail);
  for (const key of Object.keys(root)) {
    if (!fields.has(key)) throw fail(key, "there is no such field");
  }
  const folder = resolve(sourcePath, "..");
  const kernel = readOptionalPath(root, "kernel", { folder, fail });
  const initrd = readOptionalPath(root, "initrd", { folder, fail });
  const append = readOptionalText(root, "append", fail);
  const incoming = readOptionalText(root, "incoming", fail);
  if (kernel === undefined && initrd !== undefined) throw fail("initrd", "it needs a kernel");
  if (kernel === undefined && append !== undefined) throw fail("append", "it needs a kernel");
  return {
    name: readName(root["name"], fail),
    memoryMiB: readInteger(root, "memoryMiB", {
      min: descriptionLimits.memoryMiBMin,
      max: descriptionLimits.memoryMiBMax,
      fail,
    }),
    cpus: readInteger(root, "cpus", { min: 1, max: descriptionLimits.cpus, fail }),
    ...(kernel === undefined ? {} : { kernel }),
    ...(initrd === undefined ? {} : { initrd }),
    ...(append === undefined ? {} : { append }),
    ...(incoming === undefined ? {} : { incoming }),
    disks: readDisks(root["disks"], { folder, fail }),
    ackChannel: readOptionalBoolean(root, "ackChannel", fail),
    extraArguments: readExtraArguments(root["extraArguments"], fail),
  };
}

type Fail = (field: string, reason: string) => KluisError;
type JsonObject = Readonly<Record<string, unknown>>;

function createFail(sourcePath: string): Fail {
  return (field, reason) =>
    new KluisError(
      "ConfigInvalid",
      `Cannot read VM description "${sourcePath}": ${field === "" ? "" : `field "${field}": `}${reason}`,
      { details: { path: sourcePath, ...(field === "" ? {} : { field }) } },
    );
}

function parseObject(text: string, fail: Fail): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw fail("", `it is not JSON: ${(error as Error).message}`);
  }
  if (!isObject(value)) throw fail("", "it is not a JSON object");
  return value;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readName(value: unknown, fail: Fail): string {
  if (typeof value !== "string") throw fail("name", "it must be a text");
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(value)) {
    throw fail("name", "it must be 1 to 64 letters, digits, dots, dashes or underscores");
  }
  return value;
}

function readInteger(
  root: JsonObject,
  field: string,
  range: { readonly min: number; readonly max: number; readonly fail: Fail },
): number {
  const value = root[field];
  if (typeof value !== "number" || !Number.isInteger(value)) {
    throw range.fail(field, "it must be a whole number");
  }
  if (value < range.min || value > range.max) {
    throw range.fail(field, `it must be ${range.min} to ${range.max}`);
  }
  return value;
}

function readOptionalText(root: JsonObject, field: string, fail: Fail): string | undefined {
  const value = root[field];
  if (value === undefined) return undefined;
  return readText(value, field, fail);
}

function readText(value: unknown, field: string, fail: Fail): string {
  if (typeof value !== "string" || value === "") throw fail(field, "it must be a text");
  if (value.length > descriptionLimits.argumentChars) throw fail(field, "it is too long");
  if (/[\0\n]/.test(value)) throw fail(field, "it may hold no line break and no NUL");
  return value;
}

function readOptionalBoolean(root: JsonObject, field: string, fail: Fail): boolean {
  const value = root[field];
  if (value === undefined) return false;
  if (typeof value !== "boolean") throw fail(field, "it must be true or false");
  return value;
}

interface PathContext {
  readonly folder: string;
  readonly fail: Fail;
}

function readOptionalPath(
  root: JsonObject,
  field: string,
  context: PathContext,
): string | undefined {
  const value = root[field];
  return value === undefined ? undefined : readPath(value, field, context);
}

function readPath(value: unknown, field: string, context: PathContext): string {
  const path = readText(value, field, context.fail);
  return isAbsolute(path) ? resolve(path) : resolve(context.folder, path);
}

function readDisks(value: unknown, context: PathContext): readonly DescribedDisk[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw context.fail("disks", "it must be a list of at least one disk");
  }
  if (value.length > descriptionLimits.disks) {
    throw context.fail("disks", `it may name at most ${descriptionLimits.disks} disks`);
  }
  const disks = value.map((entry: unknown, index) => readDisk(entry, index, context));
  disks.forEach((disk, index) => {
    const earlier = disks.slice(0, index);
    if (earlier.some((other) => other.name === disk.name)) {
      throw context.fail(`disks[${index}].name`, `the name "${disk.name}" is used twice`);
    }
    if (earlier.some((other) => other.path === disk.path)) {
      throw context.fail(`disks[${index}].path`, "two disks name the same image");
    }
  });
  return disks;
}

function readDisk(entry: unknown, index: number, context: PathContext): DescribedDisk {
  const at = `disks[${index}]`;
  if (!isObject(entry)) throw context.fail(at, "it must be an object");
  for (const key of Object.keys(entry)) {
    if (!["name", "path", "format"].includes(key)) {
      throw context.fail(`${at}.${key}`, "there is no such field");
    }
  }
  const name = entry["name"];
  if (typeof name !== "string" || !/^[a-z][a-z0-9]{0,11}$/.test(name)) {
    throw context.fail(
      `${at}.name`,
      "it must be a small letter and at most 11 small letters or digits",
    );
  }
  const format = entry["format"];
  if (format !== "qcow2" && format !== "raw") {
    throw context.fail(`${at}.format`, 'it must be "qcow2" or "raw"');
  }
  return { name, path: readPath(entry["path"], `${at}.path`, context), format };
}

function readExtraArguments(value: unknown, fail: Fail): readonly string[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw fail("extraArguments", "it must be a list of texts");
  if (value.length > descriptionLimits.extraArguments) {
    throw fail("extraArguments", `it may hold at most ${descriptionLimits.extraArguments} texts`);
  }
  return value.map((entry: unknown, index) => {
    const argument = readText(entry, `extraArguments[${index}]`, fail);
    // QEMU takes `--option` for `-option`.
    if (refusedArguments.has(argument.replace(/^--/, "-"))) {
      throw fail(`extraArguments[${index}]`, `"${argument}" may not be given`);
    }
    return argument;
  });
}
