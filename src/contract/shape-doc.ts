/** How the JSON output is documented. */
import type { OutputHead } from "#contract/cli-output.ts";

/** Type and meaning of one member. A type that ends in `?` may be absent. */
export type MemberDoc = readonly [type: string, text: string];

/** Members of a document or of a part of one. The compiler sees to it that none is left out. */
export type Members<T> = {
  readonly [
    Key in T extends OutputHead<string> ? Exclude<keyof T, keyof OutputHead<string>> : keyof T
  ]-?: MemberDoc;
};

/** A document or a part of one. */
export interface ShapeDoc {
  /** The `kind` of a document, or the name of a part. */
  readonly name: string;
  readonly isDocument: boolean;
  readonly text: string;
  readonly members: Readonly<Record<string, MemberDoc>>;
}

/** The documentation of a document: its kind, which commands print it, its members. */
export function toDocument(name: string, text: string, members: ShapeDoc["members"]): ShapeDoc {
  return { name, isDocument: true, text, members };
}

/** The documentation of a part of documents. */
export function toPart(name: string, members: ShapeDoc["members"]): ShapeDoc {
  return { name, isDocument: false, text: "", members };
}
