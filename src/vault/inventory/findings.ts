/** What checks have proved, and what was checked when; docs/design/verify-and-heal.md. */
import type { LedgerLine } from "#formats/ledger-part.ts";
import {
  type BadPart,
  type LedgerDeps,
  type LedgerPlace,
  linesPerPart,
  type NewLine,
  putLedgerLines,
  readLedger,
  replacing,
} from "#vault/inventory/ledger.ts";

/** Parts are put together from so many on. */
const compactPartsMin = 32;
/** Ranges of each depth that are kept: those of about the last two rounds through a vault. */
const rangesMax = 512;

/** How objects were checked: compared with their names, or everything in them opened as well. */
export type CheckDepth = "objects" | "full";

/** A range of names whose objects were all checked. */
export interface CheckedRange {
  readonly depth: CheckDepth;
  /** Wall time; for people and for what is due next, no safety rests on it. */
  readonly atMs: number;
  /** Largest number of an inventory part at that time: objects named by later ones were not checked. */
  readonly upTo: number;
  readonly objects: number;
  readonly bytes: number;
  /** First and last name of the range, in the order of their bytes. */
  readonly from: string;
  readonly to: string;
}

/** What is known of a store from earlier checks. */
export interface Findings {
  /** Names of objects that were proved damaged and not found whole again since. */
  readonly damaged: ReadonlySet<string>;
  /** Newest last. */
  readonly checked: readonly CheckedRange[];
  /** Parts that cannot be used: they count as not written, which costs another check. */
  readonly bad: readonly BadPart[];
}

/** What a check has found. */
export interface NewFindings {
  readonly damaged?: readonly string[];
  readonly sound?: readonly string[];
  readonly checked?: readonly CheckedRange[];
}

/** Reads what earlier checks have found. Errors: those of the store. */
export async function readFindings(place: LedgerPlace): Promise<Findings> {
  const { parts, bad } = await readLedger(place, "findings");
  const { verdicts, checked } = unite(parts.map(({ lines }) => lines));
  const damaged = new Set<string>();
  for (const [name, { kind }] of verdicts) if (kind === "damaged") damaged.add(name);
  return { damaged, checked, bad };
}

/** Puts what a check has proved; durable on return. Errors: those of the store. */
export async function putFindings(deps: LedgerDeps, found: NewFindings): Promise<void> {
  const { damaged = [], sound = [], checked = [] } = found;
  const lines: NewLine[] = [
    ...damaged.map((name) => (number: number) => ({ kind: "damaged" as const, number, name })),
    ...sound.map((name) => (number: number) => ({ kind: "sound" as const, number, name })),
    ...checked.map((range) => () => toLine(range)),
  ];
  await putLedgerLines(deps, "findings", { lines });
}

/**
 * Puts all findings into one part and removes those before, where there are many. Of one object only
 * the newest verdict is kept, of ranges the newest. Safe beside any other use, as for the inventory.
 */
export async function compactFindings(deps: LedgerDeps): Promise<void> {
  const { store, keys, signal } = deps;
  const { parts } = await readLedger({ store, vaultId: keys.vaultId, keys, signal }, "findings");
  if (parts.length < compactPartsMin) return;
  const { verdicts, checked } = unite(parts.map(({ lines }) => lines));
  const lines: LedgerLine[] = [
    ...replacing(parts),
    ...verdicts.values(),
    ...(["objects", "full"] as const).flatMap((depth) => {
      return checked
        .filter((range) => range.depth === depth)
        .slice(-rangesMax)
        .map(toLine);
    }),
  ];
  // A verdict that no longer fits costs another check, and only a vault in ruins has so many.
  const kept = lines.slice(0, linesPerPart).map((line) => () => line);
  await putLedgerLines(deps, "findings", { after: parts, lines: kept });
  for (const { name } of parts) await store.remove(name, signal);
}

type VerdictLine = Extract<LedgerLine, { readonly kind: "damaged" | "sound" }>;

function unite(parts: readonly (readonly LedgerLine[])[]): {
  readonly verdicts: ReadonlyMap<string, VerdictLine>;
  readonly checked: readonly CheckedRange[];
} {
  const verdicts = new Map<string, VerdictLine>();
  const checked = new Map<string, CheckedRange>();
  for (const lines of parts) {
    for (const line of lines) {
      if (line.kind === "damaged" || line.kind === "sound") {
        const known = verdicts.get(line.name);
        if (known === undefined || isNewer(line, known)) verdicts.set(line.name, line);
      } else if (line.kind === "checked" || line.kind === "opened") {
        const { kind, ...rest } = line;
        const depth = kind === "opened" ? ("full" as const) : ("objects" as const);
        checked.set(JSON.stringify(line), { depth, ...rest });
      }
    }
  }
  return { verdicts, checked: [...checked.values()].toSorted((a, b) => a.atMs - b.atMs) };
}

function toLine({ depth, ...range }: CheckedRange): LedgerLine {
  return { kind: depth === "full" ? "opened" : "checked", ...range };
}

/** Among lines of one number damage weighs more. */
function isNewer(line: VerdictLine, known: VerdictLine): boolean {
  return line.number > known.number || (line.number === known.number && line.kind === "damaged");
}
