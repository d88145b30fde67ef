/** What the guest says of a file that decides how it is backed up. */
import { KluisError } from "#base/kluis-error.ts";

/** A file of the guest. Symbolic links are followed. */
export type InspectedFile =
  | { readonly kind: "missing" }
  | {
      readonly kind: "file" | "other";
      readonly ownerId: number;
      /** Permission bits, with set-user-id and its like. */
      readonly mode: number;
      readonly sizeBytes: number;
      /** Absent where it was not asked for, or is larger than 64 KiB. */
      readonly content?: Uint8Array;
    };

/** Reads the answer to `inspect`: one line per file. Errors: AgentFailed (backoff) where it is none. */
export function parseInspectedFiles(text: string, count: number): readonly InspectedFile[] {
  const lines = text.split("\n").filter((line) => line !== "");
  if (lines.length !== count) throw malformed();
  return lines.map(parseLine);
}

function parseLine(line: string): InspectedFile {
  if (line === "missing") return { kind: "missing" };
  const match = /^(file|other) (\d{1,10}) ([0-7]{1,5}) (\d{1,16}) (-|[A-Za-z0-9+/]+={0,2})$/.exec(
    line,
  );
  if (match === null) throw malformed();
  const [, kind, owner, mode, size, content] = match;
  const sizeBytes = Number(size);
  const isEmpty = kind === "file" && sizeBytes === 0;
  const bytes = content === "-" ? undefined : Buffer.from(content ?? "", "base64");
  return {
    kind: kind === "file" ? "file" : "other",
    ownerId: Number(owner),
    mode: Number.parseInt(mode ?? "", 8),
    sizeBytes,
    ...(bytes === undefined ? (isEmpty ? { content: new Uint8Array() } : {}) : { content: bytes }),
  };
}

function malformed(): KluisError {
  return new KluisError(
    "AgentFailed",
    "Cannot read what the guest says of its files: it has no known form",
  );
}
