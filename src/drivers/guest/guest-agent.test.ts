/**
 * Goal: an answer is never taken for that of another command, whatever comes late or in between.
 * Method: a peer that plays what agents were seen to do, on a real socket.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { answerWell, reply, startPeer } from "#testing/agent-peer.ts";
import { GuestAgent } from "./guest-agent.ts";

test("guest agent: begins with sync and status, and asks nothing else of a thawed guest", async () => {
  await using peer = await startPeer(answerWell);
  await using agent = await GuestAgent.open(peer.path);
  assert.equal(agent.leftoverThawed, undefined);
  assert.deepEqual(peer.requests, ["guest-sync-delimited", "guest-fsfreeze-status"]);
});

test("guest agent: thaws at the start what a dead round left frozen", async () => {
  await using peer = await startPeer((request, socket) => {
    if (request.execute === "guest-fsfreeze-status") reply(socket, { return: "frozen" });
    else if (request.execute === "guest-fsfreeze-thaw") reply(socket, { return: 2 });
    else answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(peer.path);
  assert.equal(agent.leftoverThawed, 2);
});

test("guest agent: drops a late answer and answers the next command with its own", async () => {
  let late: (() => void) | undefined;
  await using peer = await startPeer((request, socket) => {
    if (request.execute === "slow") late = () => reply(socket, { return: "slow" });
    else {
      late?.();
      late = undefined;
      answerWell(request, socket);
    }
  });
  await using agent = await GuestAgent.open(peer.path);
  await assert.rejects(agent.execute("slow", undefined, { timeoutMs: 30 }), (error) =>
    isKluisError(error, "AgentUnavailable"),
  );
  assert.equal(await agent.execute("next"), "next");
  assert.equal(await agent.execute("again"), "again");
});

test("guest agent: stays in step when it had to ask for a sync more than once", async () => {
  let asked = 0;
  const woken = Promise.withResolvers<void>();
  let turn: Promise<void> = woken.promise;
  await using peer = await startPeer((request, socket) => {
    asked += 1;
    if (asked === 3) woken.resolve();
    // An agent that wakes up answers what it finds, one after the other.
    turn = turn.then(async () => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      answerWell(request, socket);
    });
  });
  await using agent = await GuestAgent.open(peer.path, { timeoutMs: 10_000 });
  for (const name of ["a", "b", "c"]) assert.equal(await agent.execute(name), name);
});

test("guest agent: a command that was posted is not answered to another", async () => {
  await using peer = await startPeer(answerWell);
  await using agent = await GuestAgent.open(peer.path);
  agent.post("posted");
  assert.equal(await agent.execute("next"), "next");
  assert.ok(peer.requests.includes("posted"));
});

test("guest agent: runs overlapping commands one after the other", async () => {
  await using peer = await startPeer((request, socket) => {
    if (request.execute.startsWith("guest-")) answerWell(request, socket);
    else setTimeout(() => answerWell(request, socket), 5);
  });
  await using agent = await GuestAgent.open(peer.path);
  const names = ["a", "b", "c", "d"];
  assert.deepEqual(await Promise.all(names.map((name) => agent.execute(name))), names);
});

test("guest agent: gives the agent's words where it refuses", async () => {
  await using peer = await startPeer((request, socket) => {
    if (request.execute === "forbidden") {
      reply(socket, { error: { class: "CommandNotFound", desc: "it is disabled" } });
    } else answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(peer.path);
  await assert.rejects(agent.execute("forbidden"), (error) => {
    assert.ok(isKluisError(error, "AgentFailed"));
    assert.match(error.message, /"forbidden".*it is disabled/);
    return true;
  });
  assert.equal(await agent.execute("next"), "next");
});

test("guest agent: is unavailable where nobody listens, answers or stays", async () => {
  await assert.rejects(GuestAgent.open("/nowhere/agent.sock", { timeoutMs: 50 }), (error) =>
    isKluisError(error, "AgentUnavailable"),
  );
  await using silent = await startPeer(() => undefined);
  await assert.rejects(GuestAgent.open(silent.path, { timeoutMs: 50 }), (error) =>
    isKluisError(error, "AgentUnavailable"),
  );
  await using leaving = await startPeer((request, socket) => {
    if (request.execute === "leave") socket.destroy();
    else answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(leaving.path);
  await assert.rejects(agent.execute("leave"), (error) => isKluisError(error, "AgentUnavailable"));
  await assert.rejects(agent.execute("next"), (error) => isKluisError(error, "AgentUnavailable"));
});

test("guest agent: a session ends where the other side sends what is no JSON", async () => {
  await using peer = await startPeer((request, socket) => {
    if (request.execute === "garble") socket.write("}{\n");
    else answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(peer.path);
  await assert.rejects(agent.execute("garble"), (error) => isKluisError(error, "AgentUnavailable"));
});

test("guest agent: stops waiting when it is told to", async () => {
  await using peer = await startPeer((request, socket) => {
    if (request.execute !== "slow") answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(peer.path);
  const cancel = new AbortController();
  const reason = new Error("enough");
  const slow = agent.execute("slow", undefined, { signal: cancel.signal });
  cancel.abort(reason);
  await assert.rejects(slow, reason);
  assert.equal(await agent.execute("next"), "next");
});
