/** What Kluis and its guards say to each other: one JSON object a line. */
import { fromSerializedError, KluisError, type SerializedError } from "#base/kluis-error.ts";
import { errorRegistry } from "#base/error-codes.ts";
import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";

/** How a guard is started; the only argument of its process, as JSON. */
export interface GuardConfig {
  /** The socket that the guard acts on: the agent's, or QEMU's second monitor. */
  readonly targetSocket: string;
  /** Where the guard listens, for one connection. */
  readonly guardSocket: string;
  /** Where it leaves its identity. */
  readonly identityPath: string;
  /** Guard of a freeze: the request's budget; see {@link planFreezeTimes}. */
  readonly budgetMs?: number;
  /** Guard of a pivot: the VM's record, and the process that writes it. */
  readonly recordPath?: string;
  readonly kluis?: ProcessIdentity;
}

/** What Kluis asks; each once, in this order. `beat`: Kluis is alive; it has no answer. */
export const guardTasks = ["prepare", "freeze", "thaw", "finish", "beat"] as const;

/** See {@link guardTasks}. */
export type GuardTask = (typeof guardTasks)[number];

/** The answer to a task. */
export type GuardAnswer =
  | { readonly task: GuardTask; readonly result: GuardResult }
  | { readonly task: GuardTask; readonly error: SerializedError };

/** What a task answers. */
export interface GuardResult {
  /** `prepare` of a freeze: the token of the armed watchdog. */
  readonly token?: string;
  /** `freeze`, `thaw`: how many file systems. */
  readonly count?: number;
  /** `thaw`: why the guard had thawed before it was asked. */
  readonly selfThawReason?: string;
}

/** When what happens after the watchdog was armed, in ms. */
export interface FreezeTimes {
  /** The guard thaws whatever Kluis says. */
  readonly guardThawsAfterMs: number;
  /** The watchdog in the guest thaws. */
  readonly guestThawsAfterMs: number;
}

/** Fixed shares of the budget, so that the guest's watchdog only acts where the guard failed. */
export function planFreezeTimes(budgetMs: number): FreezeTimes {
  return { guardThawsAfterMs: budgetMs * 0.6, guestThawsAfterMs: budgetMs * 0.8 };
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
  const { token, count, selfThawReason } = result;
  return {
    ...(typeof token === "string" ? { token } : {}),
    ...(typeof count === "number" ? { count } : {}),
    ...(typeof selfThawReason === "string" ? { selfThawReason } : {}),
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
