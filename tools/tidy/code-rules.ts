/** Rules about the code of one file. Each returns its findings and touches nothing. */
import { codeDoors, moduleDoors, type Door } from "./doors.ts";
import type { Finding } from "./findings.ts";
import { importsOf } from "./imports.ts";
import { isProduct, lineOf, type SourceFile, type TextFile } from "./source-files.ts";

/** Most lines of a file. Functions are bounded by oxlint. */
export const fileLinesMax = 600;

/** Rule `doors`: time, randomness, processes, files … enter product code through one door each. */
export function checkDoors(files: readonly SourceFile[]): readonly Finding[] {
  return files.flatMap((file) => [...moduleFindings(file), ...codeFindings(file)]);
}

function moduleFindings(file: SourceFile): readonly Finding[] {
  return importsOf(file).flatMap((entry) =>
    moduleDoors
      .filter((door) => door.pattern.test(entry.specifier) && !isAllowed(door, file.path))
      .map((door) => doorFinding(door, file.path, entry.line, `"${entry.specifier}"`)),
  );
}

function codeFindings(file: SourceFile): readonly Finding[] {
  return codeDoors
    .filter((door) => !isAllowed(door, file.path))
    .flatMap((door) =>
      [...file.bare.replace(mainOfHelper, "").matchAll(door.pattern)].map((match) =>
        doorFinding(door, file.path, lineOf(file.text, match.index), match[0].trim()),
      ),
    );
}

/**
 * The last statement of a file that is also the main file of a helper process: a line, or a block of
 * at most five. There it may take the arguments of that process.
 */
const mainOfHelper = /^if \(import\.meta\.main\) (?:[^{\n].*\n|\{\n(?: .*\n){1,5}\}\n)$(?![\s\S])/m;

function isAllowed(door: Door, path: string): boolean {
  if (door.everywhere !== true && !isProduct(path)) return true;
  return door.allowed.some((prefix) => path.startsWith(prefix));
}

function doorFinding(door: Door, path: string, line: number, found: string): Finding {
  const where = door.allowed.length === 0 ? "nowhere" : `in ${door.allowed.join(", ")} only`;
  const message = `${found}: ${door.what} may be touched ${where}; use ${door.instead}`;
  return { rule: "doors", path, line, message };
}

/** Rule `default-exports`: exports have names. */
export function checkDefaultExports(files: readonly SourceFile[]): readonly Finding[] {
  return files.flatMap((file) =>
    [...file.bare.matchAll(/\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/g)].map(
      (match) => ({
        rule: "default-exports",
        path: file.path,
        line: lineOf(file.text, match.index),
        message: "exports a default; export a name",
      }),
    ),
  );
}

/** Rule `file-size`: no code file is longer than {@link fileLinesMax}. */
export function checkFileSize(files: readonly TextFile[]): readonly Finding[] {
  return files
    .filter((file) => /\.(?:ts|mjs|sh)$/.test(file.path))
    .map((file) => ({ path: file.path, lines: file.text.split("\n").length - 1 }))
    .filter(({ lines }) => lines > fileLinesMax)
    .map(({ path, lines }) => ({
      rule: "file-size",
      path,
      line: fileLinesMax,
      message: `has ${lines} lines, more than ${fileLinesMax}; move a part that stands alone`,
    }));
}

const declaration =
  /^export\s+(?:declare\s+)?(?:async\s+|abstract\s+)*(function\*?|class|const|let|interface|type|enum)\s+([\w$]+)/;

/**
 * Rule `documented`: every export of src is declared where it stands and has a docstring. One
 * docstring serves the overloads of a function, and constants on lines that follow each other.
 */
export function checkDocumented(files: readonly SourceFile[]): readonly Finding[] {
  return files
    .filter((file) => file.path.startsWith("src/") && !file.path.endsWith(".test.ts"))
    .flatMap((file) => undocumentedExports(file));
}

function undocumentedExports(file: SourceFile): readonly Finding[] {
  const text = file.text.split("\n");
  const findings: Finding[] = [];
  let overloaded = "";
  let constantAt = -1;
  file.bare.split("\n").forEach((line, index) => {
    if (!/^export\b/.test(line)) return;
    const [, kind, name] = declaration.exec(line) ?? [];
    const isGrouped = kind === "const" && constantAt === index - 1;
    const isDocumented = (text[index - 1] ?? "").trimEnd().endsWith("*/");
    const finding = { rule: "documented", path: file.path, line: index + 1 };
    if (name === undefined) {
      findings.push({ ...finding, message: "exports a list; write export where it is declared" });
    } else if (name !== overloaded && !isDocumented && !isGrouped) {
      findings.push({ ...finding, message: `export "${name}" has no docstring above it` });
    } else if (kind === "const") constantAt = index;
    overloaded = name ?? "";
  });
  return findings;
}
