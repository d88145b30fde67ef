/** Rules about who may import what. Each returns its findings and touches nothing. */
import type { Finding } from "./findings.ts";
import { findCycles, importsOf, type Import } from "./imports.ts";
import { closedFolders, layers, packageDoors, sharedDrivers, testingFolder } from "./layers.ts";
import { isProduct, isTest, type SourceFile } from "./source-files.ts";

/** Rule `layers`: product code imports what the table of layers allows, through the right door. */
export function checkLayers(files: readonly SourceFile[]): readonly Finding[] {
  return files
    .filter((file) => isProduct(file.path))
    .flatMap((file) =>
      importsOf(file).flatMap((entry) => {
        const message =
          entry.target === undefined
            ? explainPackage(file.path, entry.specifier)
            : explainTarget(file.path, entry, entry.target);
        return message === undefined
          ? []
          : [{ rule: "layers", path: file.path, line: entry.line, message }];
      }),
    );
}

/** Rule `cycles`: no file imports itself through others, types included. */
export function checkCycles(files: readonly SourceFile[]): readonly Finding[] {
  const graph = new Map(
    files.map((file) => [
      file.path,
      importsOf(file)
        .filter((entry) => entry.kind !== "url")
        .flatMap((entry) => (entry.target === undefined ? [] : [entry.target])),
    ]),
  );
  return findCycles(graph).map((cycle) => ({
    rule: "cycles",
    path: cycle[0] ?? "",
    line: 1,
    message: `imports go round: ${cycle.join(" → ")}; move what both need to a file of its own`,
  }));
}

/** Rule `re-exports`: no barrels; an import names the file that declares. */
export function checkReExports(files: readonly SourceFile[]): readonly Finding[] {
  return files.flatMap((file) =>
    importsOf(file)
      .filter((entry) => entry.kind === "re-export")
      .map((entry) => ({
        rule: "re-exports",
        path: file.path,
        line: entry.line,
        message: `re-exports "${entry.specifier}"; let importers name the file that declares`,
      })),
  );
}

function explainPackage(path: string, specifier: string): string | undefined {
  if (specifier.startsWith("node:")) return undefined;
  const name = specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
  const doors = packageDoors[name];
  if (doors === undefined) return `imports package "${name}", which packageDoors does not list`;
  if (doors.some((door) => path.startsWith(door))) return undefined;
  return `imports package "${name}"; only ${doors.join(", ")} may`;
}

function explainTarget(path: string, entry: Import, target: string): string | undefined {
  if (!target.startsWith("src/")) return `imports "${target}" from outside src`;
  if (isTest(target)) return `imports the test "${target}"`;
  const from = folderOf(path);
  const to = folderOf(target);
  if (to === testingFolder) return `imports the test kit "${target}"; only tests may`;
  return (
    explainLayer(from, to) ??
    explainDriver(path, target) ??
    explainClosed(path, target) ??
    explainForm({ entry, path, target })
  );
}

function explainLayer(from: string, to: string): string | undefined {
  if (from === to) return undefined;
  const layer = layers.find((candidate) => candidate.folder === from);
  if (layer === undefined) return `lies in "${from}", which is no layer`;
  if (layer.mayImport === "everything" || layer.mayImport.includes(to)) return undefined;
  const allowed = layer.mayImport.length === 0 ? "nothing else" : layer.mayImport.join(", ");
  return `"${from}" may import ${allowed}, not "${to}"`;
}

function explainDriver(path: string, target: string): string | undefined {
  const from = driverOf(path);
  const to = driverOf(target);
  if (from === undefined || to === undefined || from === to) return undefined;
  if (sharedDrivers.includes(to)) return undefined;
  return `driver "${from}" may not import driver "${to}", only ${sharedDrivers.join(" and ")}`;
}

function explainClosed(path: string, target: string): string | undefined {
  for (const folder of closedFolders) {
    const inside = folder.exec(target)?.[0];
    if (inside === undefined || path.startsWith(inside)) continue;
    if (target.slice(inside.length).includes("/")) {
      return `imports "${target}", which is private to ${inside}; import a top-level file of it`;
    }
  }
  return undefined;
}

function explainForm(edge: {
  readonly entry: Import;
  readonly path: string;
  readonly target: string;
}): string | undefined {
  const { entry, path, target } = edge;
  if (!target.endsWith(".ts")) return `imports "${entry.specifier}"; write the file with .ts`;
  const isRelative = entry.specifier.startsWith(".");
  const leaves = folderOf(path) !== folderOf(target) || driverOf(path) !== driverOf(target);
  if (!isRelative || !leaves || entry.kind === "url") return undefined;
  return `imports "${entry.specifier}"; across folders write "#${target.slice("src/".length)}"`;
}

function folderOf(path: string): string {
  return path.split("/")[1] ?? "";
}

/** The name of the driver folder, or of the file for a driver of one file. */
function driverOf(path: string): string | undefined {
  return /^src\/drivers\/([^/]+)/.exec(path)?.[1];
}
