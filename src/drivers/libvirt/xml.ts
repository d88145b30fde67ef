/**
 * Reads XML as libvirt writes it, and keeps where each element stands, so that a change replaces
 * exactly what it means and leaves every other byte alone.
 */
import { KluisError } from "#base/kluis-error.ts";

/** An element. Positions are indexes into the text. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
  /** The text between the children, joined and trimmed. */
  readonly text: string;
  readonly start: number;
  readonly end: number;
  /** Where the start tag ends. */
  readonly openEnd: number;
  /** Where the end tag starts; `openEnd` where the element is empty. */
  readonly closeStart: number;
}

/** Deeper than any domain: backing chains nest one level a layer. */
const DEPTH_MAX = 512;
const tokenPattern =
  /<!--[\s\S]*?-->|<\?[\s\S]*?\?>|<!\[CDATA\[[\s\S]*?\]\]>|<\/([^\s>]+)\s*>|<([^\s/>!?]+)((?:\s+[^\s=/>]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*(\/?)>|[^<]+/g;
const attributePattern = /([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g;

interface Draft {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: XmlElement[];
  readonly start: number;
  readonly openEnd: number;
  text: string;
}

/** The root element. Errors: ConfigInvalid where it is no XML that libvirt writes. */
export function parseXml(text: string): XmlElement {
  const open: Draft[] = [];
  let root: XmlElement | undefined;
  let at = 0;
  for (const token of text.matchAll(tokenPattern)) {
    if (token.index !== at) throw malformed(at);
    const end = at + token[0].length;
    const [whole, closed, opened, attributes = "", slash] = token;
    if (opened !== undefined) {
      const draft: Draft = {
        name: opened,
        attributes: parseAttributes(attributes),
        children: [],
        start: at,
        openEnd: end,
        text: "",
      };
      if (open.length >= DEPTH_MAX || root !== undefined) throw malformed(at);
      if (slash !== "/") open.push(draft);
      else root = place(open, finish(draft, end, end));
    } else if (closed !== undefined) {
      const draft = open.pop();
      if (draft?.name !== closed) throw malformed(at);
      root = place(open, finish(draft, at, end));
    } else if (!whole.startsWith("<")) {
      const parent = open.at(-1);
      if (parent !== undefined) parent.text += decode(whole);
    }
    at = end;
  }
  if (at !== text.length || root === undefined) throw malformed(at);
  return root;
}

/** The first child of that name. */
export function childOf(element: XmlElement | undefined, name: string): XmlElement | undefined {
  return element?.children.find((child) => child.name === name);
}

/** An attribute of an element. */
export function attributeOf(element: XmlElement | undefined, name: string): string | undefined {
  return element?.attributes.get(name);
}

/** A text as the value of an attribute in quotes. */
export function quoteXml(value: string): string {
  return `'${escapeXml(value)}'`;
}

/** A text as the content of an element. */
export function escapeXml(value: string): string {
  return value
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&apos;");
}

/** A part of a text and what takes its place. */
export interface XmlEdit {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

/** The text with every edit applied; edits do not overlap. */
export function applyEdits(text: string, edits: readonly XmlEdit[]): string {
  let edited = text;
  for (const edit of [...edits].sort((a, b) => b.start - a.start)) {
    edited = edited.slice(0, edit.start) + edit.text + edited.slice(edit.end);
  }
  return edited;
}

function finish(draft: Draft, closeStart: number, end: number): XmlElement {
  return { ...draft, text: draft.text.trim(), closeStart, end };
}

/** Puts an element into its parent; returns it where it has none. */
function place(open: readonly Draft[], element: XmlElement): XmlElement | undefined {
  const parent = open.at(-1);
  if (parent === undefined) return element;
  parent.children.push(element);
  return undefined;
}

function parseAttributes(text: string): ReadonlyMap<string, string> {
  const attributes = new Map<string, string>();
  for (const [, name = "", double, single] of text.matchAll(attributePattern)) {
    attributes.set(name, decode(double ?? single ?? ""));
  }
  return attributes;
}

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
};

function decode(text: string): string {
  return text.replaceAll(/&(#x?[0-9a-fA-F]+|\w+);/g, (whole, entity: string) => {
    if (!entity.startsWith("#")) return entities[entity] ?? whole;
    const isHex = entity.startsWith("#x");
    const code = Number.parseInt(entity.slice(isHex ? 2 : 1), isHex ? 16 : 10);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

function malformed(at: number): KluisError {
  return new KluisError(
    "ConfigInvalid",
    `Cannot read the XML of libvirt: it has no known form at character ${String(at)}`,
  );
}
