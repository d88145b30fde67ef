/**
 * The line protocols of QEMU's monitor (QMP) and of its guest agent: JSON objects, one a line.
 * Source: QEMU's docs/interop/qmp-spec.txt and qemu-ga-ref.
 */
import { KluisError } from "#base/kluis-error.ts";

/** Longest line that is read: a block graph of 16 disks with 64 layers each stays far below. */
export const QMP_LINE_BYTES_MAX = 16 * 1024 * 1024;

/** Precedes an answer of the agent to guest-sync-delimited, and resets its parser when sent. */
export const AGENT_DELIMITER = 0xff;

const lineFeed = 0x0a;

/** A JSON object as it comes. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** What a peer may say. `id` is the id of the command that it answers. */
export type QmpMessage =
  | { readonly kind: "greeting"; readonly version: string }
  | { readonly kind: "event"; readonly name: string; readonly data: JsonObject }
  | { readonly kind: "return"; readonly id: string | undefined; readonly value: unknown }
  | {
      readonly kind: "error";
      readonly id: string | undefined;
      readonly class: string;
      readonly description: string;
    };

/** A command with its arguments; `id` comes back with the answer. The agent takes no id. */
export interface QmpCommand {
  readonly execute: string;
  readonly arguments?: JsonObject;
  readonly id?: string;
}

/** The bytes of a command, with the line end. */
export function encodeQmpCommand(command: QmpCommand): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(command)}\n`);
}

/**
 * Reads one line of the monitor or of the agent.
 *
 * @throws KluisError QmpFailed (backoff) where it is none of the known messages.
 */
export function parseQmpMessage(line: string): QmpMessage {
  const message = parseObject(line);
  const id = typeof message["id"] === "string" ? message["id"] : undefined;
  if ("return" in message) return { kind: "return", id, value: message["return"] };
  const { error, event, QMP: greeting } = message;
  if (isObject(error)) {
    return { kind: "error", id, class: textOf(error["class"]), description: textOf(error["desc"]) };
  }
  if (typeof event === "string") {
    return { kind: "event", name: event, data: isObject(message["data"]) ? message["data"] : {} };
  }
  if (isObject(greeting)) return { kind: "greeting", version: versionOf(greeting) };
  throw malformed("it is no known message");
}

/** One line; `isDelimited` where a delimiter of the agent stood before it. */
export interface QmpLine {
  readonly text: string;
  readonly isDelimited: boolean;
}

/** Cuts a stream of bytes into lines, in bounded memory. */
export class QmpLines {
  #rest: Buffer = Buffer.alloc(0);
  #isDelimited = false;

  /**
   * The complete lines after `chunk` was added. A delimiter of the agent throws away what came
   * before it, which is an answer to somebody else or to a command that was given up.
   *
   * @throws KluisError QmpFailed (backoff) where a line is longer than {@link QMP_LINE_BYTES_MAX}.
   */
  add(chunk: Uint8Array): readonly QmpLine[] {
    let bytes = Buffer.concat([this.#rest, chunk]);
    const delimiterAt = bytes.lastIndexOf(AGENT_DELIMITER);
    if (delimiterAt >= 0) {
      bytes = bytes.subarray(delimiterAt + 1);
      this.#isDelimited = true;
    }
    const lines: QmpLine[] = [];
    for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed)) {
      const text = bytes.toString("utf8", 0, end).trim();
      bytes = bytes.subarray(end + 1);
      if (text === "") continue;
      lines.push({ text, isDelimited: this.#isDelimited });
      this.#isDelimited = false;
    }
    if (bytes.byteLength > QMP_LINE_BYTES_MAX) throw malformed("a line is too long");
    this.#rest = Buffer.from(bytes);
    return lines;
  }
}

/** Whether `value` is a JSON object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseObject(line: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw malformed("it is not JSON", error);
  }
  if (!isObject(value)) throw malformed("it is no object");
  return value;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function versionOf(greeting: JsonObject): string {
  const { version } = greeting;
  const numbers = isObject(version) ? version["qemu"] : undefined;
  if (!isObject(numbers)) return "";
  return [numbers["major"], numbers["minor"], numbers["micro"]].join(".");
}

function malformed(reason: string, cause?: unknown): KluisError {
  return new KluisError("QmpFailed", `Cannot understand an answer of QEMU: ${reason}`, { cause });
}
