/** What Kluis and its guards say to each other: one JSON object a line. */
import { fromSerializedError, KluisError, type SerializedError } from "#base/kluis-error.ts";
import { errorRegistry } from "#base/error-codes.ts";
import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import type { RoundOrder } from "./scripts/run-scripts.ts";

/** How a guard is started; the only argument of its process, as JSON. */
export interface GuardConfig {
  /** The socket that the guard acts on: the agent's, or QEMU's second monitor. */
  readonly targetSocket: string;
  /** Where the guard listens, for one connection. */
  readonly guardSocket: string;
  /** Where it leaves its identity. */
  readonly identityPath: string;
  /** Guard of a freeze. */
  readonly freeze?: FreezePlan;
  /** Guard of a pivot: the VM's record, and the process that writes it. */
  readonly recordPath?: string;
  readonly kluis?: ProcessIdentity;
}

/** What a guard of a freeze is to do. */
export interface FreezePlan {
  /** The request's budget; see {@link planFreezeTimes}. */
  readonly budgetMs: number;
  /** Of this round: twelve hexadecimal digits. */
  readonly token: string;
  /** Mount points to freeze; all where absent. */
  readonly mountPoints?: readonly string[];
  /** Whether a guest in which no watchdog can run is frozen all the same. */
  readonly mayFreezeUnwatched?: boolean;
  /** Who lets the guest go on where nobody thaws: VSS, or by default the watchdog in the guest. */
  readonly keeper?: "vss";
  /** The guest's scripts, where they are run. */
  readonly scripts?: RoundOrder;
}

/**
 * What Kluis asks, in this order: `prepare` opens the agent, `quiesce` runs the pre script, `arm`
 * arms the watchdog in the guest, `resume` runs the post script. `beat`: Kluis is alive; it has no
 * answer.
 */
export const guardTasks = [
  "prepare",
  "quiesce",
  "arm",
  "freeze",
  "thaw",
  "resume",
  "finish",
  "beat",
] as const;

/** See {@link guardTasks}. */
export type GuardTask = (typeof guardTasks)[number];

/** The answer to a task. */
export type GuardAnswer =
  | { readonly task: GuardTask; readonly result: GuardResult }
  | { readonly task: GuardTask; readonly error: SerializedError };

/** What a task answers. */
export interface GuardResult {
  /** `quiesce`, `resume`: what the guest says of the script. */
  readonly script?: string;
  /** `arm`: no watchdog can run in the guest, as the plan allows. */
  readonly isUnwatched?: boolean;
  /** `freeze`, `thaw`: how many file systems. */
  readonly count?: number;
  /**
   * `thaw`, `resume`: why the guard had thawed, or ordered the post script, before it was asked; or
   * how the guest's thaw failed.
   */
  readonly selfReason?: string;
}

/**
 * When what happens, in ms; unless it says otherwise, after the watchdog was armed, or after VSS said
 * that it holds writes.
 */
export interface FreezeTimes {
  /** The guard thaws whatever Kluis says. */
  readonly guardThawsAfterMs: number;
  /** The watchdog in the guest thaws; a freeze whose thaw is asked later does not count. */
  readonly guestThawsAfterMs: number;
  /** After it was asked: a freeze answers. */
  readonly freezeAnswersMs: number;
  /** After it was asked: one try of a thaw answers. */
  readonly thawTryMs: number;
  /** After it was asked: the guard answers a thaw, or is replaced. */
  readonly thawAnswersMs: number;
  /** After the end of the pre script: the supervisor in the guest thaws and runs the post script. */
  readonly guestResumesAfterMs: number;
}

/** VSS holds writes for 10 s. */
const VSS_BUDGET_MS_MAX = 8_000;
/** The agent asks all writers to prepare, then waits up to 60 s until VSS holds writes. */
const VSS_FREEZE_ANSWERS_MS = 90_000;
/** Writes go on at once; the answer comes after all writers have ended their part. */
const VSS_THAW_ANSWERS_MS = 30_000;
/** A guard that lives answers once the guest's hooks have run; one that does not is replaced. */
const THAW_ANSWERS_MS = 3_000;
const THAW_TRY_MS = 2_000;

/** Fixed shares of the budget, so that the guest's watchdog only acts where the guard failed. */
export function planFreezeTimes(plan: Pick<FreezePlan, "budgetMs" | "keeper">): FreezeTimes {
  const isVss = plan.keeper === "vss";
  const budgetMs = isVss ? Math.min(plan.budgetMs, VSS_BUDGET_MS_MAX) : plan.budgetMs;
  return {
    guardThawsAfterMs: budgetMs * (isVss ? 0.8 : 0.6),
    guestThawsAfterMs: budgetMs * (isVss ? 1 : 0.8),
    freezeAnswersMs: isVss ? VSS_FREEZE_ANSWERS_MS : budgetMs * 0.8,
    thawTryMs: isVss ? VSS_THAW_ANSWERS_MS : THAW_TRY_MS,
    thawAnswersMs: isVss ? VSS_THAW_ANSWERS_MS + THAW_ANSWERS_MS : THAW_ANSWERS_MS,
    // The pre script's own time comes before it, and that of the post script after it.
    guestResumesAfterMs: budgetMs * 0.5,
  };
}

/** How often Kluis says that it lives. */
export const GUARD_BEAT_MS = 200;
/** A line to the other side. */
export function encodeGuardLine(value: GuardAnswer | { readonly task: GuardTask }): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value)}\n`);
}

/** Reads a task. Errors: Internal where it is none. */
export function parseGuardTask(line: string): GuardTask {
  const { task } = parse(line);
  const known = guardTasks.find((candidate) => candidate === task);
  if (known === undefined) throw malformed(line);
  return known;
}

/** Reads an answer. Errors: Internal where it is none. */
export function parseGuardAnswer(line: string): GuardAnswer {
  const { task, result, error } = parse(line);
  const known = guardTasks.find((candidate) => candidate === task);
  if (known === undefined) throw malformed(line);
  if (isObject(result)) return { task: known, result: toResult(result) };
  if (isObject(error)) return { task: known, error: toSerialized(error, line) };
  throw malformed(line);
}

/** The result of an answer; throws the error that it carries. */
export function takeGuardResult(answer: GuardAnswer): GuardResult {
  if ("error" in answer) throw fromSerializedError(answer.error);
  return answer.result;
}

/** Reads the argument of a guard's process. Errors: Internal where it is none. */
export function parseGuardConfig(text: string): GuardConfig {
  const config = parse(text);
  const { targetSocket, guardSocket, identityPath } = config;
  const paths = [targetSocket, guardSocket, identityPath];
  if (!paths.every((path) => typeof path === "string")) throw malformed(text);
  // Kluis itself wrote it, in the form of GuardConfig.
  return config as unknown as GuardConfig;
}

function toResult(result: JsonObject): GuardResult {
  const { script, isUnwatched, count, selfReason } = result;
  return {
    ...(typeof script === "string" ? { script } : {}),
    ...(typeof isUnwatched === "boolean" ? { isUnwatched } : {}),
    ...(typeof count === "number" ? { count } : {}),
    ...(typeof selfReason === "string" ? { selfReason } : {}),
  };
}

function toSerialized(error: JsonObject, line: string): SerializedError {
  const { code, message } = error;
  if (typeof code !== "string" || !Object.hasOwn(errorRegistry, code)) throw malformed(line);
  return {
    code: code as SerializedError["code"],
    message: typeof message === "string" ? message : "",
    details: {},
  };
}

function parse(line: string): JsonObject {
  try {
    const value: unknown = JSON.parse(line);
    if (isObject(value)) return value;
  } catch (error) {
    throw malformed(line, error);
  }
  throw malformed(line);
}

function malformed(line: string, cause?: unknown): KluisError {
  return new KluisError("Internal", `Cannot understand a guard: "${line.slice(0, 100)}"`, {
    cause,
  });
}
