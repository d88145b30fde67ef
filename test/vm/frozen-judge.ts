/** Whether a case of never-frozen went as promised. */
import type { Consistency, ConsistencyRecord } from "#ports/hypervisor.ts";
import type { Observed } from "./frozen-guest.ts";
import type { FrozenCell } from "./frozen-matrix.ts";

/** The longest that an application may wait. */
export const gapSecondsMost = 10;
/** A write that was durable before a freeze may be noted so much later. */
const noteSeconds = 0.3;

/** When the disks switched: between two steps that Kluis told, in ms on the host's wall clock. */
export interface Instant {
  readonly start: number | undefined;
  readonly end: number | undefined;
  /** The guest's clock less the host's, in seconds, and how far that may be wrong. */
  readonly offset: number;
  readonly error: number;
}

/** What is known of a case. */
export interface FrozenFacts {
  readonly cell: FrozenCell;
  /** Whether somebody was harmed, at the step. */
  readonly isReached: boolean;
  /** Whether the harm came while Kluis stayed in the freeze. */
  readonly isHeld: boolean;
  readonly observed: Observed;
  /** `undefined` where Kluis did not live to tell, or failed. */
  readonly record: ConsistencyRecord | undefined;
  /** Code and message where the snapshot failed. */
  readonly failure: string | undefined;
  readonly instant: Instant;
}

/** What is not as promised, in words. */
export function judge(facts: FrozenFacts): readonly string[] {
  const { cell, observed, record, failure } = facts;
  return [
    ...judgeGap(observed),
    ...judgeTrace(facts),
    ...(failure === undefined ? [] : judgeFailure(failure, cell)),
    ...(record === undefined ? [] : judgeRecord(record, facts)),
  ];
}

/**
 * What a snapshot can be called where that does not hang on time; `undefined` where it does. A guard that
 * is lost while the guest is frozen does not cost the freeze, a Kluis that stands still does, and after
 * the thaw nobody can spoil it any more.
 */
export function expectedOf(
  { guest, party, step, signal }: FrozenCell,
  isHeld: boolean,
): readonly Consistency[] | undefined {
  if (step === "disarm") return ["application", "file-system"];
  if (step !== "transaction" || !isHeld) return undefined;
  if (party === "kluis" || party === "host") return ["crash"];
  if (guest === "plain") {
    return party === "guard" || party === "watch" ? ["file-system"] : undefined;
  }
  // Until Kluis gives up one that stands still, the supervisor in the guest may have acted.
  const isTakenOver = party === "guard" && signal === "SIGKILL";
  return isTakenOver ? ["application", "file-system"] : undefined;
}

/** The time at the instant in which no write may fall, by the guest's clock; `undefined` where none is known. */
export function windowOf({
  start,
  end,
  offset,
  error,
}: Instant): { readonly from: number; readonly to: number } | undefined {
  if (start === undefined || end === undefined) return undefined;
  const from = start / 1000 + offset + error + noteSeconds;
  const to = end / 1000 + offset - error;
  return to > from ? { from, to } : undefined;
}

/** How many writes fell into the time at the instant. */
export function countWritesIn({ writes }: Observed, instant: Instant): number {
  const window = windowOf(instant);
  if (window === undefined) return 0;
  return writes.filter((time) => time > window.from && time < window.to).length;
}

function judgeGap({ gapSeconds }: Observed): readonly string[] {
  if (gapSeconds <= gapSecondsMost) return [];
  return [`the application waited ${gapSeconds.toFixed(2)} s`];
}

/** Where pre ran, post ran after it, and once unless somebody harmed it; from the step on pre has run. */
function judgeTrace({ observed, cell, isReached, record }: FrozenFacts): readonly string[] {
  const said = observed.trace.map(({ script }) => script).join(" ");
  const tries = record?.evidence?.scripts?.pre?.tries ?? 0;
  const mayBeEmpty = tries === 0 && (!isReached || cell.step === "session");
  const isHarmed = isReached && (cell.party === "script" || cell.party === "watch");
  const usual = isHarmed ? /^pre( post)+$/ : /^pre post$/;
  const isUsual = cell.guest === "plain" ? said === "" : usual.test(said);
  if (isUsual || (said === "" && mayBeEmpty)) return [];
  return [`the scripts ran as "${said}"`];
}

/** Only a libvirt that was lost makes a snapshot fail. */
function judgeFailure(failure: string, { party }: FrozenCell): readonly string[] {
  if (party === "libvirtd" || party === "host") return [];
  return [`the snapshot failed: ${failure}`];
}

/** The snapshot is called what is expected, and not better than it is: nothing was written at the instant. */
function judgeRecord(
  record: ConsistencyRecord,
  { cell, isReached, isHeld, observed, instant }: FrozenFacts,
): readonly string[] {
  const { consistency, reason } = record;
  const problems: string[] = [];
  const isWithReason = consistency !== (cell.guest === "plain" ? "file-system" : "application");
  if (isWithReason !== (reason !== undefined)) problems.push("a reason is wrong");
  const expected = isReached ? expectedOf(cell, isHeld) : undefined;
  if (expected !== undefined && !expected.includes(consistency)) {
    problems.push(`${consistency}-consistent instead of ${expected.join(" or ")}`);
  }
  if (consistency === "crash") return problems;
  const writes = countWritesIn(observed, instant);
  if (writes > 0) {
    problems.push(`${consistency}-consistent, but ${String(writes)} writes at the instant`);
  }
  const { end, offset, error } = instant;
  const isPostEarly = observed.trace.some(
    ({ script, atSeconds }) =>
      script === "post" && end !== undefined && atSeconds < end / 1000 + offset - error,
  );
  if (consistency === "application" && isPostEarly) problems.push("post ran before the instant");
  return problems;
}
