/** Finds and reads description files. */
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import { parseVmDescription, type VmDescription } from "./description.ts";

/** Most descriptions of one host. */
export const DESCRIPTIONS_MAX = 1024;

/** A description, and where and how it was written. */
export interface DescriptionFile {
  readonly path: string;
  readonly text: string;
  readonly description: VmDescription;
}

/**
 * Reads the descriptions at `paths`: files, or folders whose `*.json` files are read. In the order of
 * their names.
 *
 * Errors: ConfigInvalid (after-change) where one is not valid, not there, or two name one VM.
 */
export async function readDescriptionFiles(
  paths: readonly string[],
): Promise<readonly DescriptionFile[]> {
  const files: DescriptionFile[] = [];
  const found = (await Promise.all(paths.map(listFiles))).flat();
  if (found.length > DESCRIPTIONS_MAX) {
    throw new KluisError(
      "ConfigInvalid",
      `Cannot use ${String(found.length)} descriptions: there may be ${String(DESCRIPTIONS_MAX)}`,
    );
  }
  for (const path of new Set(found)) {
    const text = await readText(path);
    const description = parseVmDescription(text, path);
    const other = files.find((file) => file.description.name === description.name);
    if (other !== undefined) {
      throw new KluisError(
        "ConfigInvalid",
        `Cannot use "${path}": field "name": "${other.path}" describes a VM "${description.name}" too`,
        { details: { path, field: "name" } },
      );
    }
    files.push({ path, text, description });
  }
  return files.sort((a, b) => (a.description.name < b.description.name ? -1 : 1));
}

async function listFiles(path: string): Promise<readonly string[]> {
  const absolute = resolve(path);
  try {
    if (!(await stat(absolute)).isDirectory()) return [absolute];
    const names = await readdir(absolute);
    return names
      .filter((name) => name.endsWith(".json"))
      .sort()
      .map((name) => join(absolute, name));
  } catch (error) {
    throw unreadable(absolute, error);
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): KluisError {
  const isAbsent = (error as NodeJS.ErrnoException).code === "ENOENT";
  const reason = isAbsent ? "it is not there" : (error as Error).message;
  return new KluisError("ConfigInvalid", `Cannot read VM description "${path}": ${reason}`, {
    details: { path },
    cause: error,
  });
}
