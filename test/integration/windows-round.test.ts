/**
 * Goal: a guest of Windows is never frozen by the rules of Linux, and goes on where the guard dies before
 * VSS holds writes. Method: a whole round with its guard process, against a program that answers what a
 * Windows agent answers.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { FreezeRound } from "#drivers/guest/freeze-round.ts";
import { GuestRound } from "#drivers/guest/guest-round.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { WindowsAgent } from "#testing/windows-agent.ts";

const application: SnapshotRequest = { consistency: "application", freezeBudgetMs: 8_000 };
/** Longer than a session waits for an agent that does not answer. */
const preparingMs = 12_000;

/** A round from its beginning to its end, with the instant where the guest is frozen. */
async function playRound(
  agentSocket: string,
  runDirectory: string,
  request: SnapshotRequest,
): Promise<ConsistencyRecord> {
  const place = { agentSocket, runDirectory, clock: systemClock };
  await using round = await GuestRound.open(place, request, undefined);
  await round.quiesce(undefined);
  await round.freeze();
  return await round.thaw();
}

test("windows round: an agent too old to say what it runs is not frozen without a watchdog", async () => {
  await using folder = await createTempFolder();
  const socket = join(folder.path, "agent.sock");
  await using agent = await WindowsAgent.listen(socket);
  agent.guest.faults.isAgentOld = true;
  const request = { ...application, mayFreezeUnwatched: true };
  const record = await playRound(socket, folder.path, request);
  assert.equal(record.consistency, "crash", record.reason);
  assert.ok(!agent.log.some((command) => command.startsWith("guest-fsfreeze-freeze")));
  assert.deepEqual(agent.guest.backups, []);
});

test("windows round: Kluis thaws where the guard dies while the writers prepare", async (t) => {
  await using folder = await createTempFolder();
  const agentSocket = join(folder.path, "agent.sock");
  await using agent = await WindowsAgent.listen(agentSocket);
  agent.guest.faults.freezeMs = preparingMs;
  const place = { agentSocket, runDirectory: folder.path, clock: systemClock };
  const plan = { budgetMs: application.freezeBudgetMs, keeper: "vss" } as const;
  await using round = await FreezeRound.open({ ...place, plan }, undefined);
  const failing = assert.rejects(round.freeze(undefined));
  while (!agent.log.includes("guest-fsfreeze-freeze")) await systemClock.sleep(20);
  await systemClock.sleep(1_000);
  const identity = JSON.parse(await readFile(join(folder.path, "guard.json"), "utf8")) as {
    readonly pid: number;
  };
  process.kill(identity.pid, "SIGKILL");
  await failing;
  assert.equal(agent.freezesMs.length, 1, "Kluis does not give up before the freeze");
  const frozenMs = agent.freezesMs[0] ?? Infinity;
  t.diagnostic(`thawed ${frozenMs.toFixed(0)} ms after a freeze whose guard was killed`);
  assert.ok(frozenMs < 1_000);
  assert.notEqual((await round.thaw()).reason, undefined);
});
