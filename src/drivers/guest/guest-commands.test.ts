/**
 * Goal: who runs a program in a guest learns soon that its agent was started anew or fell silent, however
 * long the program may take, and loses nothing where one answer was lost. Method: a peer that plays what
 * agents were seen to do, on a real socket; time runs faster.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { answerWell, reply, startPeer, type AgentPeer } from "#testing/agent-peer.ts";
import { createFastClock } from "#testing/fast-clock.ts";
import { GuestAgent } from "./guest-agent.ts";
import { runGuestProgram, type GuestProgramResult } from "./guest-commands.ts";

/** What a pre script's round may take. */
const patienceMs = 120_000;
/** Within it whoever waits has to know, by the same clock. */
const noticedMsMost = 40_000;
const clock = createFastClock(20);
const unknown = { error: { class: "GenericError", desc: "PID 7 does not exist" } };

/** An agent that does not answer the first `lost` looks at a program, and then says `then`. */
function startLossy(lost: number, then: unknown): Promise<AgentPeer> {
  let looks = 0;
  return startPeer((request, socket) => {
    if (request.execute === "guest-exec") reply(socket, { return: { pid: 7 } });
    else if (request.execute !== "guest-exec-status") answerWell(request, socket);
    else if ((looks += 1) > lost) socket.write(`${JSON.stringify(then)}\n`);
  });
}

async function runOn(peer: AgentPeer): Promise<GuestProgramResult> {
  await using agent = await GuestAgent.open(peer.path, { clock });
  return await runGuestProgram(agent, { path: "/bin/x", args: [] }, { timeoutMs: patienceMs });
}

/** How long it took, by the fast clock, until that error. */
async function failureOf(peer: AgentPeer): Promise<{ error: unknown; afterMs: number }> {
  const startMs = clock.monotonicMs();
  const error = await runOn(peer).catch((reason: unknown) => reason);
  return { error, afterMs: clock.monotonicMs() - startMs };
}

test("guest program: an agent that was started anew is noticed, though it had a question unanswered", async () => {
  await using peer = await startLossy(1, unknown);
  const { error, afterMs } = await failureOf(peer);
  assert.ok(isKluisError(error, "AgentFailed"), String(error));
  assert.equal(error.details["command"], "guest-exec-status");
  assert.ok(afterMs < noticedMsMost, `after ${String(afterMs)} ms`);
});

test("guest program: an answer that was lost is asked for again, after a sync", async () => {
  const ended = { return: { exited: true, exitcode: 3 } };
  await using peer = await startLossy(1, ended);
  assert.deepEqual(await runOn(peer), { exitCode: 3, stdout: "", stderr: "" });
  const asked = peer.requests.filter((each) => each !== "guest-fsfreeze-status");
  assert.deepEqual(asked, [
    "guest-sync-delimited",
    "guest-exec",
    "guest-exec-status",
    "guest-sync-delimited",
    "guest-exec-status",
  ]);
});

test("guest program: an agent that is silent for good is given up long before the program's time", async () => {
  await using peer = await startLossy(Infinity, unknown);
  const { error, afterMs } = await failureOf(peer);
  assert.ok(isKluisError(error, "AgentUnavailable"), String(error));
  assert.ok(afterMs < noticedMsMost, `after ${String(afterMs)} ms`);
});
