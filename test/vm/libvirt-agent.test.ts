/**
 * Goal: who talks to a guest agent through libvirt learns at once that the agent is gone, however long
 * the answer may take, and talks to the next one by the same session. Method: a real libvirt; the agent
 * is killed, and kept from starting again for a while.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import { pingGuest } from "#drivers/guest/guest-commands.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import { runInGuest } from "../../lab/guest.ts";
import { LibvirtVms } from "../../lab/libvirt-vm.ts";

/** What the answer may take, and within what its absence has to be told; libvirt itself takes 0.1 s. */
const answerTimeoutMs = 120_000;
const toldMsMost = 20_000;
/** For an agent that is known not to be there. */
const openTimeoutMs = 2_000;
/** An agent starts within a second; a busy machine takes longer. */
const startTimeoutMs = 60_000;
/** Ends the agent that libvirt knows, and not that of the tests; init cannot start another one. */
const killAgent = `chmod -x /etc/lab/agent
for entry in $(grep -lsE 'qemu-ga.*guest_agent[.]0' /proc/[0-9]*/cmdline); do
  entry=\${entry#/proc/}
  kill -KILL "\${entry%/cmdline}"
done`;

test("libvirt agent: an agent that was killed is told at once, and the next one answers", async () => {
  await using vms = await LibvirtVms.open([4, 4]);
  await using vm = await vms.create();
  const { host, uuid, directory, exec } = vm;
  await host.virsh.run(["start", uuid]);
  const socketPath = join(directory, "agent.sock");
  const address = planVirshAgent({ uri: host.uri, domain: uuid, socketPath });
  await using agent = await GuestAgent.open(address, { timeoutMs: startTimeoutMs });
  await pingGuest(agent);
  await runInGuest(exec, killAgent);
  const isNoticed = async (): Promise<boolean> =>
    /guest_agent\.0' state='disconnected'/.test(await host.virsh.run(["dumpxml", uuid]));
  const patience = { timeoutMs: toldMsMost, pollMs: 100, clock: systemClock };
  assert.ok(await waitUntil(isNoticed, patience), "libvirt sees that the agent has ended");
  const startMs = systemClock.monotonicMs();
  await assert.rejects(pingGuest(agent, { timeoutMs: answerTimeoutMs }), (error) => {
    assert.ok(isKluisError(error, "AgentUnavailable"), String(error));
    assert.match(error.message, /not connected/);
    return true;
  });
  const toldMs = systemClock.monotonicMs() - startMs;
  assert.ok(toldMs < toldMsMost, `it was told after ${String(toldMs)} ms`);
  await assert.rejects(
    GuestAgent.open(address, { timeoutMs: openTimeoutMs }),
    /did not answer within 2000 ms: Guest agent is not responding: QEMU guest agent is not connected/,
  );
  await runInGuest(exec, "chmod +x /etc/lab/agent");
  await pingGuest(agent, { timeoutMs: startTimeoutMs });
});
