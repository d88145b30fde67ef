/** Reads the imports of a source file without a parser. */
import { posix } from "node:path";

import { lineOf, type SourceFile } from "./source-files.ts";

/** One import, re-export, dynamic import, or file named for a worker thread. */
export interface Import {
  readonly kind: "import" | "re-export" | "dynamic" | "url";
  /** As written. */
  readonly specifier: string;
  /** Path of the file it names, relative to the root; absent for packages and built-ins. */
  readonly target?: string;
  /** What stands between the keyword and `from`. */
  readonly clause: string;
  readonly line: number;
}

const patterns: readonly { readonly kind: Import["kind"]; readonly pattern: RegExp }[] = [
  { kind: "import", pattern: /\bimport\b([\w\s{},*$]*?)\bfrom\s*["']([^"'\n]+)["']/g },
  { kind: "import", pattern: /\bimport\b(\s*)["']([^"'\n]+)["']/g },
  { kind: "re-export", pattern: /\bexport\b([\w\s{},*$]*?)\bfrom\s*["']([^"'\n]+)["']/g },
  { kind: "dynamic", pattern: /\bimport(\s*)\(\s*["'`]([^"'`\n]+)["'`]/g },
  { kind: "url", pattern: /\bnew\s+URL(\s*)\(\s*["'`](\.[^"'`\n]+\.ts)["'`]/g },
];

/** Every import of `file` in order of kind and place. What stands in a string is not one. */
export function importsOf(file: SourceFile): readonly Import[] {
  const found: Import[] = [];
  for (const { kind, pattern } of patterns) {
    for (const match of file.code.matchAll(pattern)) {
      if (file.bare[match.index] === " ") continue;
      const [, clause = "", specifier = ""] = match;
      const target = resolveImport(file.path, specifier);
      found.push({
        kind,
        specifier,
        clause: clause.trim(),
        line: lineOf(file.text, match.index),
        ...(target === undefined ? {} : { target }),
      });
    }
  }
  return found;
}

/** Path of the repository file that `specifier` names in `fromPath`; `undefined` for packages. */
export function resolveImport(fromPath: string, specifier: string): string | undefined {
  if (specifier.startsWith("#")) return `src/${specifier.slice(1)}`;
  if (!specifier.startsWith(".")) return undefined;
  return posix.normalize(posix.join(posix.dirname(fromPath), specifier));
}

/** The first cycle that each file lies on, as paths that end where they start; each cycle once. */
export function findCycles(
  graph: ReadonlyMap<string, readonly string[]>,
): readonly (readonly string[])[] {
  const cycles: (readonly string[])[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  function visit(node: string): void {
    const at = path.indexOf(node);
    if (at !== -1) {
      cycles.push([...path.slice(at), node]);
      return;
    }
    if (done.has(node)) return;
    path.push(node);
    for (const next of graph.get(node) ?? []) visit(next);
    path.pop();
    done.add(node);
  }
  for (const node of graph.keys()) visit(node);
  return cycles;
}
