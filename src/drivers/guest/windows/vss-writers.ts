/**
 * The writers of a Windows guest, from what `vssadmin list writers` prints. Its words are the guest's
 * language; what it is made of is not: a name, two GUIDs, a state as a number, a last error. Pure; the
 * rules are those of docs/design/windows.md.
 */
import type { VssWriterFailure } from "#ports/hypervisor.ts";

/** More than any guest has. */
const WRITERS_MAX = 1000;
const NAME_CHARACTERS_MAX = 200;

/** One writer as vssadmin lists it. */
export interface VssWriter {
  /** GUID of the kind of writer, in lower case, without braces. */
  readonly id: string;
  /** Not translated by most writers. */
  readonly name: string;
  /** VSS_WRITER_STATE. */
  readonly state: number;
  /** In the guest's language. */
  readonly lastError: string;
}

/** What the writers of a guest say of the backup that has just ended. */
export type WritersVerdict =
  | { readonly kind: "succeeded"; readonly count: number }
  | {
      readonly kind: "failed";
      readonly count: number;
      readonly failed: readonly VssWriterFailure[];
    }
  /** Some are still at it: asked later, they may say more. */
  | { readonly kind: "busy"; readonly reason: string }
  | { readonly kind: "unknown"; readonly reason: string };

/** VSS_WS_STABLE and VSS_WS_WAITING_FOR_BACKUP_COMPLETE: the instant is behind them. */
const doneStates: ReadonlySet<number> = new Set([1, 5]);
/** Waiting for freeze, thaw, or the end of the snapshot. */
const busyStates: ReadonlySet<number> = new Set([2, 3, 4]);

/**
 * What vssadmin prints for a writer without an error, in the languages in which that is known. No other
 * word is guessed: writers that all say the same may all have the same error.
 */
const noErrorWords: ReadonlySet<string> = new Set(["No error", "Kein Fehler", "Aucune erreur"]);

const guidPattern = /\{([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}/i;
const statePattern = /\[\s*(\d{1,2})\s*\]/;

/** Reads the list; `undefined` where it has another form, or names no writer. */
export function parseVssWriters(text: string): readonly VssWriter[] | undefined {
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const writers: VssWriter[] = [];
  const used = new Set<number>();
  for (const [at, line] of lines.entries()) {
    const id = guidPattern.exec(line)?.[1];
    if (id === undefined || used.has(at)) continue;
    const isInstance = guidPattern.test(lines[at + 1] ?? "");
    const state = statePattern.exec(lines[at + 2] ?? "")?.[1];
    const [name, lastError] = [valueOf(lines[at - 1]), valueOf(lines[at + 3])];
    if (!isInstance || state === undefined || name === "" || lastError === "") return undefined;
    used.add(at + 1);
    writers.push({ id: id.toLowerCase(), name, state: Number(state), lastError });
    if (writers.length > WRITERS_MAX) return undefined;
  }
  return writers.length === 0 ? undefined : writers;
}

/** What comes after the first colon, without the quotation marks of any language. */
function valueOf(line: string | undefined): string {
  const value = /^[^:\uff1a]*[:\uff1a](.*)$/u.exec(line ?? "")?.[1] ?? "";
  return value
    .trim()
    .replace(/^['"`\u2018-\u201f\u00ab\u300c]\s*/u, "")
    .replace(/\s*['"`\u2018-\u201f\u00bb\u300d]$/u, "")
    .slice(0, NAME_CHARACTERS_MAX);
}

/** Whether every writer succeeded. A writer that cannot be shown to have succeeded has failed. */
export function judgeVssWriters(writers: readonly VssWriter[] | undefined): WritersVerdict {
  if (writers === undefined) {
    return { kind: "unknown", reason: "the guest's list of VSS writers has no known form" };
  }
  const count = writers.length;
  const busy = writers.filter(({ state }) => busyStates.has(state));
  if (busy.length > 0) {
    const names = busy.map(({ name }) => name).join(", ");
    return { kind: "busy", reason: `VSS writers have not ended their part: ${names}` };
  }
  const done = writers.filter(({ state }) => doneStates.has(state));
  const isLanguageKnown = done.some(({ lastError }) => noErrorWords.has(lastError));
  const failed = writers.filter(
    ({ state, lastError }) =>
      !doneStates.has(state) || (isLanguageKnown && !noErrorWords.has(lastError)),
  );
  if (failed.length > 0) return { kind: "failed", count, failed };
  if (!isLanguageKnown) {
    const words = `"${done[0]?.lastError ?? ""}"`;
    return {
      kind: "unknown",
      reason: `whether the VSS writers had errors cannot be told: Kluis does not know the words ${words}`,
    };
  }
  return { kind: "succeeded", count };
}
