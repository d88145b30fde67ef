/** Rules about Markdown pages. Each returns its findings and touches nothing. */
import { posix } from "node:path";

import { errorRegistry } from "#base/error-codes.ts";

import type { Finding } from "./findings.ts";
import { layers } from "./layers.ts";
import { isProduct, lineOf, type SourceFile, type TextFile } from "./source-files.ts";

/** Words that docs/glossary.md must explain. */
export const glossaryWords: readonly string[] = (
  "vault, recovery point, protected item, policy, job, snapshot tier, vault tier, " +
  "storage account, extension, BEK, KEK, protected instance, window, page, block, pack, frame, " +
  "index, segment, map, leaf, manifest, lease, slot, base snapshot, layer, overlay, freeze, thaw, " +
  "watchdog"
).split(", ");

/** Rule `glossary`: every word of the list is a bold entry of the glossary, once. */
export function checkGlossary(page: TextFile): readonly Finding[] {
  const entries = [...page.text.matchAll(/^\*\*([^*]+)\*\*/gm)].map((match) => match[1] ?? "");
  return glossaryWords
    .filter((word) => entries.filter((entry) => entry === word).length !== 1)
    .map((word) => ({
      rule: "glossary",
      path: page.path,
      line: 1,
      message: `must explain "${word}" in exactly one entry that starts with **${word}**`,
    }));
}

/** Rule `links`: links between pages, to headings, and from sources to docs lead somewhere. */
export function checkLinks(
  files: readonly TextFile[],
  sources: readonly SourceFile[],
): readonly Finding[] {
  const pages = new Map(files.map((file) => [file.path, file.text]));
  return [
    ...files.filter((file) => file.path.endsWith(".md")).flatMap((page) => pageLinks(page, pages)),
    ...sources
      .filter((file) => !file.path.startsWith("tools/tidy/"))
      .flatMap((file) => docLinks(file, pages)),
  ];
}

function pageLinks(page: TextFile, pages: ReadonlyMap<string, string>): readonly Finding[] {
  const text = page.text.replace(/^```[\s\S]*?^```/gm, (block) => block.replace(/[^\n]/g, " "));
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap((match) => {
    const [path = "", anchor] = (match[1] ?? "").split("#");
    if (/^[a-z]+:/.test(path)) return [];
    const target = path === "" ? page.path : posix.join(posix.dirname(page.path), path);
    const message = explainLink({ target, anchor, pages });
    const line = lineOf(page.text, match.index);
    return message === undefined ? [] : [{ rule: "links", path: page.path, line, message }];
  });
}

function explainLink(link: {
  readonly target: string;
  readonly anchor: string | undefined;
  readonly pages: ReadonlyMap<string, string>;
}): string | undefined {
  const target = link.target.replace(/\/$/, "");
  const text = link.pages.get(target);
  if (text === undefined) {
    const isFolder = [...link.pages.keys()].some((path) => path.startsWith(`${target}/`));
    return isFolder ? undefined : `links to "${target}", which is not there`;
  }
  if (link.anchor === undefined || anchorsOf(text).has(link.anchor)) return undefined;
  return `links to "#${link.anchor}" of "${target}", which has no such heading`;
}

/** The anchors that a page's headings get from the usual Markdown hosts. */
export function anchorsOf(text: string): ReadonlySet<string> {
  return new Set(
    [...text.matchAll(/^#{1,6}\s+(.+)$/gm)].map((match) =>
      (match[1] ?? "")
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, "")
        .trim()
        .replace(/\s/g, "-"),
    ),
  );
}

function docLinks(file: SourceFile, pages: ReadonlyMap<string, string>): readonly Finding[] {
  return [...file.text.matchAll(/\bdocs\/[\w./-]+\.md\b/g)]
    .filter((match) => !pages.has(match[0]))
    .map((match) => ({
      rule: "links",
      path: file.path,
      line: lineOf(file.text, match.index),
      message: `names "${match[0]}", which is not there`,
    }));
}

/** The table of layers as ARCHITECTURE.md must show it: layer, folder, what it may import. */
export function expectedLayerRows(): readonly string[] {
  return layers.map((layer) => {
    const allowed = layer.mayImport === "everything" ? "everything" : layer.mayImport.join(", ");
    return `${layer.layer} | src/${layer.folder} | ${allowed === "" ? "–" : allowed}`;
  });
}

/** The rows of the table of layers in `text`, in the form of {@link expectedLayerRows}. */
export function layerRowsOf(text: string): readonly string[] {
  return [...text.matchAll(/^\| (\d+) \| `([^`]+)` \|[^|]*\| ([^|]+) \|$/gm)].map(
    (match) => `${match[1]} | ${match[2]} | ${match[3]}`,
  );
}

/** Codes of the registry that no product file names in a string. */
export function codesNotRaised(files: readonly SourceFile[]): readonly string[] {
  const product = files.filter(
    (file) => isProduct(file.path) && file.path !== "src/base/error-codes.ts",
  );
  return Object.keys(errorRegistry).filter(
    (code) => !product.some((file) => file.code.includes(`"${code}"`)),
  );
}
