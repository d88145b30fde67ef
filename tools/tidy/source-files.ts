/** The files that the tidy rules look at. */
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

import { maskSource } from "./mask.ts";

/** One text file of the repository. `path` is relative to its root, with slashes. */
export interface TextFile {
  readonly path: string;
  readonly text: string;
}

/** One TypeScript file, with comments and literals masked; see `mask.ts`. */
export interface SourceFile extends TextFile {
  readonly code: string;
  readonly bare: string;
}

/** The root of the repository, without a slash at the end. */
export const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** In a work tree of git `.git` is a file, so these are left out whatever they are. */
const namesLeftOut = new Set(["node_modules", ".git", ".kluis", ".cache"]);

/** Every text file of the repository, sorted by path. */
export function readTextFiles(root: string = repositoryRoot): readonly TextFile[] {
  return listFiles(root)
    .filter((path) => path !== "package-lock.json")
    .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }))
    .filter((file) => !file.text.includes("\0"));
}

/** The TypeScript files among `files`. */
export function toSourceFiles(files: readonly TextFile[]): readonly SourceFile[] {
  return files
    .filter((file) => file.path.endsWith(".ts"))
    .map((file) => createSourceFile(file.path, file.text));
}

/** A source file of that path and text. */
export function createSourceFile(path: string, text: string): SourceFile {
  return { path, text, ...maskSource(text) };
}

/** Whether the file is product code: under src, no test, no test kit. */
export function isProduct(path: string): boolean {
  return path.startsWith("src/") && !path.startsWith("src/testing/") && !isTest(path);
}

/** Whether the file holds tests. */
export function isTest(path: string): boolean {
  return path.endsWith(".test.ts");
}

/** The number of the line, from 1, that `offset` lies on. */
export function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < offset; at = text.indexOf("\n", at + 1)) {
    line += 1;
  }
  return line;
}

function listFiles(root: string): readonly string[] {
  const found: string[] = [];
  const folders = [root];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (namesLeftOut.has(entry.name)) continue;
      if (entry.isDirectory()) folders.push(path);
      if (entry.isFile()) found.push(relative(root, path));
    }
  }
  return found.sort();
}
