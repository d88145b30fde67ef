/** Rules about tests and unfinished work. Each returns its findings and touches nothing. */
import type { Finding } from "./findings.ts";
import { isTest, lineOf, type SourceFile, type TextFile } from "./source-files.ts";

const testCall = /(?<![.\w#])(test|it|describe)\(\s*(["'`])((?:[^"'`\\\n]|\\.)*)\2/g;
const testName = /^[^:\s][^:]*: \S/;

/**
 * Rule `test-names`: `subject: does X when Y`, and no two tests of one name. A test inside a
 * `describe` takes its subject from there.
 */
export function checkTestNames(files: readonly SourceFile[]): readonly Finding[] {
  const seen = new Map<string, string>();
  return files.filter((file) => isTest(file.path)).flatMap((file) => testNamesOf(file, seen));
}

/** Adds the names of `file` to `seen`, which maps names to places. */
function testNamesOf(file: SourceFile, seen: Map<string, string>): readonly Finding[] {
  let suite: string | undefined;
  return [...file.code.matchAll(testCall)].flatMap((match) => {
    if (file.bare[match.index] === " ") return [];
    const [, call, , name = ""] = match;
    const line = lineOf(file.text, match.index);
    const isNested = /^[ \t]$/.test(file.text[match.index - 1] ?? "");
    const fullName =
      isNested && call !== "describe" && suite !== undefined ? `${suite}: ${name}` : name;
    if (call === "describe") {
      suite = name;
      return [];
    }
    const key = fullName.includes("${") ? `${file.path} ${fullName}` : fullName;
    const message = explainName(fullName, seen.get(key));
    seen.set(key, `${file.path}:${line}`);
    return message === undefined ? [] : [{ rule: "test-names", path: file.path, line, message }];
  });
}

function explainName(name: string, earlier: string | undefined): string | undefined {
  if (earlier !== undefined) return `test "${name}" has the name of ${earlier}`;
  if (testName.test(name) || name.startsWith("${")) return undefined;
  return `test "${name}" is not named "subject: does X when Y"`;
}

/** Rule `switched-off`: no test is skipped, left to do, or run alone. */
export function checkSwitchedOff(files: readonly SourceFile[]): readonly Finding[] {
  const marker =
    /\b(?:test|it|describe|suite|t|context)\.(?:skip|only|todo)\b|[{,]\s*(?:skip|only|todo)\s*[:,}]/g;
  return files
    .filter((file) => isTest(file.path) || file.path.startsWith("src/testing/"))
    .flatMap((file) =>
      [...file.bare.matchAll(marker)].map((match) => ({
        rule: "switched-off",
        path: file.path,
        line: lineOf(file.text, match.index),
        message: `${match[0].trim()}: a test runs always and everywhere, or is not there`,
      })),
    );
}

// In parts, so that this file keeps its own rule.
const marks = [
  ["TO", "DO"],
  ["FIX", "ME"],
  ["XX", "X"],
  ["HA", "CK"],
].map((parts) => parts.join(""));
const unfinished = new RegExp(`\\b(?:${marks.join("|")})\\b`, "g");

/** Rule `unfinished`: nothing says that it is not done. */
export function checkUnfinished(files: readonly TextFile[]): readonly Finding[] {
  return files
    .filter((file) => !file.path.endsWith(".json"))
    .flatMap((file) =>
      [...file.text.matchAll(unfinished)].map((match) => ({
        rule: "unfinished",
        path: file.path,
        line: lineOf(file.text, match.index),
        message: `${match[0]}: do it, or open an issue`,
      })),
    );
}

const systemFolders =
  /^\/(?:bin|boot|dev|etc|home|lib|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var)\//;

/**
 * What only the author's machine has: the place of the checkout, the folder above all of it where
 * that is no folder of the system, and the author's home.
 */
function machinePaths(root: string, home: string): RegExp {
  const paths = [root, home].flatMap((path) => {
    const top = /^\/[^/]+\//.exec(`${path}/`)?.[0] ?? `${path}/`;
    const own = /^\/[^/]+\/[^/]/.test(path) ? [`${escapePattern(path)}\\b`] : [];
    return systemFolders.test(top) ? own : [...own, escapePattern(top)];
  });
  return new RegExp(`(?<![\\w.-])(?:${paths.join("|")})`, "g");
}

/** Where the author works: the root of the checkout and the home folder. */
export interface AuthorPaths {
  readonly root: string;
  readonly home: string;
}

/** Rule `machine-paths`: no file names a path that only the author's machine has. */
export function checkMachinePaths(
  files: readonly TextFile[],
  { root, home }: AuthorPaths,
): readonly Finding[] {
  const pattern = machinePaths(root, home);
  return files.flatMap((file) =>
    [...file.text.matchAll(pattern)].map((match) => ({
      rule: "machine-paths",
      path: file.path,
      line: lineOf(file.text, match.index),
      message: `${match[0]}: take the path from the caller or from the file's own place`,
    })),
  );
}

function escapePattern(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
