/**
 * A part of the inventory or of the findings: lines of plain text and a MAC;
 * docs/design/vault-format.md §11.
 *
 * One content has exactly one encoding; a parser rejects every other with ObjectCorrupt. The MAC is
 * computed and checked by the vault, which has the keys.
 */
import { assert } from "#base/assert.ts";
import { bytesEqual, fromHex, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { objectNameCharsMax, isObjectName } from "#formats/object-name.ts";
import type { LedgerFolder } from "#formats/store-names.ts";

/** Largest part. */
export const ledgerPartBytesMax = 32 * 1024 * 1024;
/** Lines of one part, so that it stays below its bytes. */
export const ledgerLinesMax = 128 * 1024;
/** Generations that a `remove` or `replaces` line lives through. */
export const ledgerGenerationMax = 3;
/** Largest number of a part: 12 hexadecimal digits. */
export const ledgerNumberMax = 2 ** 48 - 1;

/** One line. Hashes are hexadecimal text, since nothing but comparison is done with them. */
export type LedgerLine =
  /** A part that was there when this one was made. */
  | { readonly kind: "after"; readonly sha256: string }
  /** A part whose content this one has taken over. */
  | { readonly kind: "replaces"; readonly generation: number; readonly sha256: string }
  /** An object that was put; `number` is that of the part that said so first. */
  | {
      readonly kind: "add";
      readonly number: number;
      readonly sizeBytes: number;
      readonly name: string;
      /** Of its content, where that is not in its name. */
      readonly sha256?: string;
    }
  /** An object that is no longer expected. */
  | { readonly kind: "remove"; readonly generation: number; readonly name: string }
  /** What a check proved of an object. */
  | { readonly kind: "damaged" | "sound"; readonly number: number; readonly name: string }
  /**
   * All objects named `from` to `to` that the inventory had up to `upTo` were compared with their names;
   * `opened`: and everything in them was opened and compared with its id.
   */
  | {
      readonly kind: "checked" | "opened";
      readonly atMs: number;
      readonly upTo: number;
      readonly objects: number;
      readonly bytes: number;
      readonly from: string;
      readonly to: string;
    };

/** A part without its MAC. */
export interface LedgerPart {
  readonly folder: LedgerFolder;
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  readonly number: number;
  readonly lines: readonly LedgerLine[];
}

/** A part as read. */
export interface ParsedLedgerPart extends LedgerPart {
  /** What the MAC covers: everything before its line. A view of what was parsed. */
  readonly body: Uint8Array;
  readonly epoch: number;
  /** 32 bytes. */
  readonly mac: Uint8Array;
}

const macPattern = /^mac ([1-9][0-9]{0,9}) ([0-9a-f]{64})\n$/;
const macLineBytesMax = 80;
const countPattern = /^(?:0|[1-9][0-9]{0,15})$/;
const hashPattern = /^[0-9a-f]{64}$/;
const headPattern = /^kluis-(inventory|findings) 1 ([0-9a-f]{32}) ([0-9]+)$/;

/** Everything but the line of the MAC. Lines are kept in their order. */
export function encodeLedgerBody(part: LedgerPart): Uint8Array {
  assert(part.lines.length <= ledgerLinesMax, "a part has a bounded number of lines");
  const head = `kluis-${part.folder} 1 ${toHex(part.vaultId)} ${part.number}\n`;
  return Buffer.from(head + part.lines.map((line) => `${encodeLine(line)}\n`).join(""), "latin1");
}

/** The last line. `mac` has 32 bytes. */
export function encodeLedgerMac(epoch: number, mac: Uint8Array): Uint8Array {
  return Buffer.from(`mac ${epoch} ${toHex(mac)}\n`, "latin1");
}

/** Parses a whole part stored as `objectName`. Throws ObjectCorrupt (never). */
export function parseLedgerPart(bytes: Uint8Array, objectName: string): ParsedLedgerPart {
  const corrupt = (reason: string): KluisError =>
    new KluisError("ObjectCorrupt", `Cannot read "${objectName}": ${reason}`, {
      details: { object: objectName },
    });
  if (bytes.byteLength > ledgerPartBytesMax) throw corrupt("it is too long");
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const macStart = text.lastIndexOf("\nmac ", undefined, "latin1") + 1;
  const isShort = macStart > 0 && text.byteLength - macStart <= macLineBytesMax;
  const mac = isShort ? macPattern.exec(text.toString("latin1", macStart)) : null;
  if (mac === null) throw corrupt("it does not end with a MAC");
  const body = text.subarray(0, macStart);
  const [head = "", ...rest] = body.toString("latin1").split("\n");
  const named = headPattern.exec(head);
  const lines = rest.slice(0, -1);
  if (named === null || lines.length > ledgerLinesMax) throw corrupt("its head is out of form");
  const part = {
    folder: named[1] === "inventory" ? ("inventory" as const) : ("findings" as const),
    vaultId: hexBytes(named[2]),
    number: Number(named[3]),
    lines: lines.map((line) => {
      const parsed = parseLine(line);
      if (parsed === undefined) throw corrupt("a line is out of form");
      return parsed;
    }),
  };
  const isOnly = bytesEqual(encodeLedgerBody(part), body) && part.number <= ledgerNumberMax;
  if (!isOnly) throw corrupt("it is out of form");
  return { ...part, body, epoch: Number(mac[1]), mac: hexBytes(mac[2]) };
}

function encodeLine(line: LedgerLine): string {
  const { kind } = line;
  switch (kind) {
    case "after":
      return `after ${line.sha256}`;
    case "replaces":
      return `replaces ${line.generation} ${line.sha256}`;
    case "add": {
      const hash = line.sha256 === undefined ? "" : ` ${line.sha256}`;
      return `add ${line.number} ${line.sizeBytes} ${line.name}${hash}`;
    }
    case "remove":
      return `remove ${line.generation} ${line.name}`;
    case "checked":
    case "opened": {
      const { atMs, upTo, objects, bytes, from, to } = line;
      return `${kind} ${atMs} ${upTo} ${objects} ${bytes} ${from} ${to}`;
    }
    case "damaged":
    case "sound":
    default:
      return `${kind} ${line.number} ${line.name}`;
  }
}

/** `undefined` where it is no line; spellings that are not the only one are told by encoding again. */
function parseLine(text: string): LedgerLine | undefined {
  const [kind, ...words] = text.split(" ");
  const fields = new LineFields(words);
  const line = parseKind(kind, fields);
  return fields.isWhole ? line : undefined;
}

function parseKind(kind: string | undefined, fields: LineFields): LedgerLine | undefined {
  switch (kind) {
    case "after":
      return { kind, sha256: fields.hash() };
    case "replaces":
      return { kind, generation: fields.count(ledgerGenerationMax), sha256: fields.hash() };
    case "add": {
      const [number, sizeBytes] = [fields.count(ledgerNumberMax), fields.count()];
      const name = fields.name();
      return { kind, number, sizeBytes, name, ...(fields.hasMore && { sha256: fields.hash() }) };
    }
    case "remove":
      return { kind, generation: fields.count(ledgerGenerationMax), name: fields.name() };
    case "damaged":
    case "sound":
      return { kind, number: fields.count(ledgerNumberMax), name: fields.name() };
    case "checked":
    case "opened": {
      const [atMs, upTo] = [fields.count(), fields.count(ledgerNumberMax)];
      const [objects, bytes] = [fields.count(), fields.count()];
      return { kind, atMs, upTo, objects, bytes, from: fields.name(), to: fields.name() };
    }
    case undefined:
    default:
      return undefined;
  }
}

/** The words of a line after its kind, taken one after the other. */
class LineFields {
  readonly #words: readonly string[];
  #at = 0;
  #isValid = true;

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  /** Whether every word was taken and each was valid. */
  get isWhole(): boolean {
    return this.#isValid && !this.hasMore;
  }

  get hasMore(): boolean {
    return this.#at < this.#words.length;
  }

  count(max = Number.MAX_SAFE_INTEGER): number {
    const word = this.#take();
    const value = countPattern.test(word) ? Number(word) : Number.NaN;
    return this.#check(value, value <= max);
  }

  hash(): string {
    const word = this.#take();
    return this.#check(word, hashPattern.test(word));
  }

  name(): string {
    const word = this.#take();
    return this.#check(word, word.length <= objectNameCharsMax && isObjectName(word));
  }

  #take(): string {
    return this.#words[this.#at++] ?? "";
  }

  #check<T>(value: T, isValid: boolean): T {
    this.#isValid &&= isValid;
    return value;
  }
}

function hexBytes(text: string | undefined): Uint8Array {
  const bytes = text === undefined ? undefined : fromHex(text);
  assert(bytes !== undefined, "a pattern has matched hexadecimal digits");
  return bytes;
}
