/** Where a store is, as a user writes it. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { KluisError } from "#base/kluis-error.ts";

/** A place of a kind that this version has a driver for. */
export interface StoreLocation {
  readonly kind: "file";
  /** Absolute. */
  readonly path: string;
}

const schemePattern = /^([a-z][a-z0-9+.-]*):\/\//i;

/**
 * Parses `file:///srv/backup` or a path, which is relative to `workingFolder`.
 *
 * Errors: ArgumentInvalid (after-change).
 */
export function parseStoreLocation(text: string, workingFolder: string): StoreLocation {
  if (text === "") throw invalid(text, "it is empty");
  if (text.includes("\0")) throw invalid(text, "it holds a zero byte");
  const scheme = schemePattern.exec(text)?.[1]?.toLowerCase();
  if (scheme === undefined) return { kind: "file", path: resolve(workingFolder, text) };
  if (scheme !== "file") throw invalid(text, `stores of kind "${scheme}" are not known`);
  return { kind: "file", path: resolve(pathOfUrl(text)) };
}

function pathOfUrl(text: string): string {
  if (!URL.canParse(text)) throw invalid(text, "it is no URL");
  const url = new URL(text);
  if (url.host !== "") throw invalid(text, "a file URL names no host: write file:///folder");
  if (url.search !== "" || url.hash !== "") {
    throw invalid(text, "a file URL has no query and no fragment");
  }
  try {
    return fileURLToPath(url);
  } catch (error) {
    throw invalid(text, "its path is out of form", error);
  }
}

function invalid(text: string, reason: string, cause?: unknown): KluisError {
  const quoted = JSON.stringify(text.slice(0, 300));
  return new KluisError("ArgumentInvalid", `Cannot use ${quoted} as a store: ${reason}`, { cause });
}
