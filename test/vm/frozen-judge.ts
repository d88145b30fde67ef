/** Whether a case of never-frozen went as promised. */
import type { ConsistencyRecord } from "#ports/hypervisor.ts";
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
  readonly observed: Observed;
  /** `undefined` where Kluis did not live to tell, or failed. */
  readonly record: ConsistencyRecord | undefined;
  /** Code and message where the snapshot failed. */
  readonly failure: string | undefined;
  readonly instant: Instant;
}

/** What is not as promised, in words. */
export function judge(facts: FrozenFacts): readonly string[] {
  const { cell, observed, record, failure, instant } = facts;
  return [
    ...judgeGap(observed),
    ...judgeTrace(observed, cell),
    ...(failure === undefined ? [] : judgeFailure(failure, cell)),
    ...(record === undefined ? [] : judgeRecord(record, observed, instant)),
  ];
}

function judgeGap({ gapSeconds }: Observed): readonly string[] {
  if (gapSeconds <= gapSecondsMost) return [];
  return [`the application waited ${gapSeconds.toFixed(2)} s`];
}

/** Where pre ran, post ran after it, and once unless somebody harmed it. */
function judgeTrace({ trace }: Observed, cell: FrozenCell): readonly string[] {
  const said = trace.map(({ script }) => script).join(" ");
  const usual =
    cell.party === "script" || cell.party === "watch" ? /^(pre( post)+)?$/ : /^(pre post)?$/;
  return usual.test(said) ? [] : [`the scripts ran as "${said}"`];
}

/** Only a libvirt that was lost makes a snapshot fail. */
function judgeFailure(failure: string, { party }: FrozenCell): readonly string[] {
  if (party === "libvirtd" || party === "host") return [];
  return [`the snapshot failed: ${failure}`];
}

/** No snapshot is called better than it is: the application wrote nothing at the instant. */
function judgeRecord(
  record: ConsistencyRecord,
  observed: Observed,
  instant: Instant,
): readonly string[] {
  const { consistency, reason } = record;
  const problems: string[] = [];
  if ((consistency === "application") !== (reason === undefined))
    problems.push("a reason is wrong");
  const { start, end, offset, error } = instant;
  if (consistency === "crash" || start === undefined || end === undefined) return problems;
  const [from, to] = [start / 1000 + offset + error + noteSeconds, end / 1000 + offset - error];
  const writes = observed.writes.filter((time) => time > from && time < to);
  if (writes.length > 0) {
    problems.push(`${consistency}-consistent, but ${String(writes.length)} writes at the instant`);
  }
  const isPostEarly = observed.trace.some(
    ({ script, atSeconds }) => script === "post" && atSeconds < end / 1000 + offset - error,
  );
  if (consistency === "application" && isPostEarly) problems.push("post ran before the instant");
  return problems;
}
