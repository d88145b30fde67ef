/** Finds the evidences of the folder `evidence`. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { repositoryRoot } from "../tidy/source-files.ts";
import type { Evidence } from "./evidence.ts";

const folder = join(repositoryRoot, "evidence");

/** The names of all evidences, sorted. */
export async function listEvidence(): Promise<readonly string[]> {
  const files = await readdir(folder);
  return files
    .filter((file) => /^[a-z0-9-]+\.ts$/.test(file))
    .map((file) => file.slice(0, -".ts".length))
    .sort();
}

/** Loads one evidence by its name; `undefined` where there is none of that name. */
export async function loadEvidence(name: string): Promise<Evidence | undefined> {
  const names = await listEvidence();
  if (!names.includes(name)) return undefined;
  const module = (await import(pathToFileURL(join(folder, `${name}.ts`)).href)) as {
    readonly evidence?: Evidence;
  };
  if (module.evidence?.name !== name) {
    throw new TypeError(`evidence/${name}.ts does not export an evidence of that name`);
  }
  return module.evidence;
}
