/** The guest's scripts in one round: what the supervisor is told, and what it tells. */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { ScriptRun } from "#ports/hypervisor.ts";
import { callExtension } from "../extension/extension.ts";
import type { AgentOptions, GuestAgent } from "../guest-agent.ts";
import type { ScriptCommand, ScriptSettings } from "./plan-scripts.ts";

/** Beside a script's own time: earlier rounds, the guest's sync, the supervisor's start, an ending. */
const SCRIPT_EXTRA_MS = 60_000;
/** How long an order may take that nobody waits for otherwise. */
const ORDER_TIMEOUT_MS = 5_000;

const STATUS_COMMAND = "guest-exec-status";

/** One script as the guest is told; JSON, since a guard is told it too. */
export interface ScriptOrder {
  /** A command line of the guest's shell. */
  readonly command: string;
  readonly timeoutMs: number;
  readonly tries: number;
}

/** Both scripts of a round. */
export interface RoundOrder {
  readonly pre: ScriptOrder;
  readonly post: ScriptOrder;
  /** So long after the end of pre the guest itself thaws and runs post. */
  readonly holdMs: number;
}

/** What the guest says of one script. */
export interface ScriptReport {
  readonly run: ScriptRun;
  /** On the guest's clock. */
  readonly startMs: number;
  readonly endMs: number;
  /** Post: whether nobody had ordered it in time, so that the guest itself ran it. */
  readonly isLate: boolean;
}

/** Plans a round of those scripts. */
export function planRoundOrder(settings: ScriptSettings, holdMs: number): RoundOrder {
  const { timeoutMs } = settings;
  const toOrder = (command: ScriptCommand): ScriptOrder => ({
    command: quoteCommand(["/bin/sh", command.path, ...command.parameters]),
    timeoutMs,
    tries: command.tries,
  });
  return { pre: toOrder(settings.pre), post: toOrder(settings.post), holdMs };
}

/** Words as one command line of a POSIX shell, which gives back exactly these words. */
export function quoteCommand(words: readonly string[]): string {
  return words.map((word) => `'${word.replaceAll("'", String.raw`'\''`)}'`).join(" ");
}

/** How long a script may take from order to answer; post may get its time twice. */
export function scriptPatienceMs(order: ScriptOrder): number {
  return 2 * order.timeoutMs + SCRIPT_EXTRA_MS;
}

/**
 * Starts the supervisor of a round, which runs the pre script; returns what it said of that, for
 * {@link parseScriptReport}. From the moment this is called post must be ordered. Errors: Agent*.
 */
export async function runPre(
  agent: GuestAgent,
  round: { readonly token: string; readonly order: RoundOrder },
): Promise<string> {
  const { token, order } = round;
  const { pre, post, holdMs } = order;
  const args = ["pre", token, toCentiseconds(holdMs), ...toArguments(pre), ...toArguments(post)];
  return callOrAskAgain(agent, { args, again: ["pre-result", token] }, scriptPatienceMs(pre));
}

/** Orders post and waits for it. Errors: Agent*; AgentFailed also where the round is not known. */
export async function runPost(
  agent: GuestAgent,
  round: { readonly token: string; readonly order: RoundOrder },
): Promise<string> {
  const args = ["post", round.token];
  return callOrAskAgain(agent, { args, again: args }, scriptPatienceMs(round.order.post));
}

/**
 * Calls the extension; where the agent does not know the program that it is asked about, calls `again`,
 * which runs no script a second time. So is an agent that was started anew, and one whose last answer
 * came too late to be heard.
 */
async function callOrAskAgain(
  agent: GuestAgent,
  call: { readonly args: readonly string[]; readonly again: readonly string[] },
  timeoutMs: number,
): Promise<string> {
  const deadlineMs = agent.clock.monotonicMs() + timeoutMs;
  try {
    return await callExtension(agent, call.args, { timeoutMs });
  } catch (error) {
    const isUnknown =
      isKluisError(error, "AgentFailed") && error.details["command"] === STATUS_COMMAND;
    if (!isUnknown) throw error;
  }
  const leftMs = deadlineMs - agent.clock.monotonicMs();
  return await callExtension(agent, call.again, { timeoutMs: Math.max(leftMs, ORDER_TIMEOUT_MS) });
}

/** Orders post, at once or after pre, and does not wait for it. Errors: Agent*. */
export async function orderPost(
  agent: GuestAgent,
  token: string,
  options: AgentOptions = {},
): Promise<void> {
  await callExtension(agent, ["order", token], { timeoutMs: ORDER_TIMEOUT_MS, ...options });
}

/** Reads what a supervisor says of a script. Errors: AgentFailed (backoff) where it has no known form. */
export function parseScriptReport(line: string): ScriptReport {
  const form =
    /^(succeeded|failed|timed-out) (\d{1,3}|-) (\d{1,4}) (\d{1,15}) (\d{1,15}) (ordered|late|-)\n?$/;
  const match = form.exec(line);
  if (match === null) {
    throw new KluisError(
      "AgentFailed",
      "Cannot read what became of a script: it has no known form",
    );
  }
  const [, outcome, code, tries, start, end, trigger] = match;
  const [startMs, endMs] = [Number(start) * 10, Number(end) * 10];
  return {
    run: {
      outcome: outcome as ScriptRun["outcome"],
      ...(code === "-" ? {} : { exitCode: Number(code) }),
      tries: Number(tries),
      durationMs: endMs - startMs,
    },
    startMs,
    endMs,
    isLate: trigger === "late",
  };
}

function toArguments(order: ScriptOrder): readonly string[] {
  return [toCentiseconds(order.timeoutMs), String(order.tries), order.command];
}

function toCentiseconds(ms: number): string {
  return String(Math.trunc(ms / 10));
}
