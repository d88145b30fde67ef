/**
 * Goal: a guest of Windows is never frozen by the rules of Linux. Method: a whole round with its guard
 * process, against a program that answers what a Windows agent answers.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { GuestRound } from "#drivers/guest/guest-round.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { WindowsAgent } from "#testing/windows-agent.ts";

const application: SnapshotRequest = { consistency: "application", freezeBudgetMs: 8_000 };

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
