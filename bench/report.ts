/**
 * `npm run bench -- report`: writes the newest whole figures of all benchmarks into docs/benchmarks.md,
 * below its line that says so. Each part names the commit and the machine that it was measured on.
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { describeDiskSizes, type DiskSizeFigures } from "./disk-size.ts";
import { describeEngine, type EngineFigures } from "./engine.ts";
import { describeStamp, readFigures, type Stamped } from "./figures.ts";
import { repositoryFolder } from "./folders.ts";
import { describeIncrements, type IncrementsFigures } from "./increments.ts";
import { type PeerFigures, peersName } from "./peers/figures.ts";
import { describePeers } from "./peers/report.ts";
import { describeTebibyte, type TebibyteFigures } from "./tebibyte.ts";
import { describeVault, type VaultFigures, vaultName } from "./vault.ts";

const pagePath = join(repositoryFolder, "docs/benchmarks.md");
/** What follows this line of the page is written here. */
const marker = "<!-- `npm run bench -- report` writes what follows -->";

/** The command; see the file's head. */
export async function runReport(): Promise<void> {
  const page = await readFile(pagePath, "utf8");
  const at = page.indexOf(marker);
  if (at === -1) throw new Error("Cannot write the report: docs/benchmarks.md lacks its marker");
  const head = page.slice(0, at + marker.length);
  const draft = `${pagePath}.${process.pid}.tmp`;
  await writeFile(draft, `${head}\n\n${(await describeAll()).join("\n\n")}\n`);
  await rename(draft, pagePath);
  console.log("wrote docs/benchmarks.md");
}

async function describeAll(): Promise<readonly string[]> {
  const parts = [
    await describe<PeerFigures>(peersName, "Programs side by side", describePeers),
    await describe<VaultFigures>(vaultName, "A vault of 60 recovery points", (kept) =>
      [`${describeStamp(kept.stamp)}.`, describeVault(kept.figures)].join("\n\n"),
    ),
    await describe<EngineFigures>("engine", "Stages of the engine", describeEngine),
    await describe<IncrementsFigures>("increments", "Sixty increments", (kept) =>
      asLines(kept, describeIncrements(kept.figures)),
    ),
    await describe<TebibyteFigures>("tebibyte", "A mapped disk of 1 TiB", (kept) =>
      asLines(kept, describeTebibyte(kept.figures)),
    ),
    await describe<DiskSizeFigures>("disk-size", "Disks of 4 GiB and 4 TiB", (kept) =>
      asLines(kept, describeDiskSizes(kept.figures)),
    ),
  ];
  return parts.flat();
}

async function describe<T>(
  name: string,
  title: string,
  toText: (kept: Stamped<T>) => string,
): Promise<readonly string[]> {
  const kept = await readFigures<T>(name);
  const text = kept === undefined ? `Not measured yet: npm run bench -- ${name}.` : toText(kept);
  return [`### ${title}`, text];
}

function asLines({ stamp }: Stamped<unknown>, text: string): string {
  return `${describeStamp(stamp)}.\n\n${text.replaceAll(/^ */gm, "- ")}`;
}
