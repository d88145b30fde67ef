/**
 * Goal: a Windows guest behind libvirt, which waits 10 s for an answer of an agent, goes on whatever its
 * writers take. Method: rounds with their guard, through a real libvirt whose VM's agent is played by a
 * program that answers what a Windows agent answers; no Windows runs.
 * Slow writers are in the long run only (KLUIS_LONG=1): each takes a minute.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import { systemClock } from "#base/clock.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import { GuestRound } from "#drivers/guest/guest-round.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { WindowsAgent } from "#testing/windows-agent.ts";
import { LibvirtVms, type LibvirtVm } from "../../lab/libvirt-vm.ts";
import { ChildRun } from "./child-run.ts";

const application: SnapshotRequest = { consistency: "application", freezeBudgetMs: 8_000 };
/** The agent starts within a second, and libvirt is asked again; a busy machine takes longer. */
const startTimeoutMs = 60_000;
/**
 * Longer than libvirt waits for an answer (10 s), the guard for an agent that is gone (30 s), and Kluis for
 * its guard (33 s).
 */
const preparingMs = 50_000;
const thawnMsMost = 2_000;

/** A test that only a long run has. */
const testLong = process.env["KLUIS_LONG"] === "1" ? test : (): undefined => undefined;

/** A round from its beginning to its end, with the instant where the guest is frozen. */
async function playRound(agentSocket: string): Promise<ConsistencyRecord> {
  await using folder = await createTempFolder();
  const place = { agentSocket, runDirectory: folder.path, clock: systemClock };
  await using round = await GuestRound.open(place, application, undefined);
  await round.quiesce(undefined);
  await round.freeze();
  return await round.thaw();
}

/** A VM of a libvirt, which takes the played agent for the one that it knew. */
interface Stage extends AsyncDisposable {
  readonly vm: LibvirtVm;
  readonly agent: WindowsAgent;
  /** The agent's address through libvirt. */
  readonly address: string;
}

async function openStage(): Promise<Stage> {
  await using owned = new AsyncDisposableStack();
  const vms = owned.use(await LibvirtVms.open([4, 4]));
  const vm = owned.use(await vms.create());
  const { host, uuid, directory } = vm;
  await host.virsh.run(["start", uuid]);
  const socketPath = join(directory, "agent.sock");
  const address = planVirshAgent({ uri: host.uri, domain: uuid, socketPath });
  const first = await GuestAgent.open(address, { timeoutMs: startTimeoutMs });
  await first[Symbol.asyncDispose]();
  await host.kill();
  const agent = owned.use(await WindowsAgent.listen(socketPath));
  await host.restart();
  const kept = owned.move();
  return { vm, agent, address, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

/** How long the guest was frozen the last time. */
function tellFrozen(t: TestContext, agent: WindowsAgent, what: string): number {
  const frozenMs = agent.freezesMs.at(-1) ?? Infinity;
  t.diagnostic(`thawed ${frozenMs.toFixed(0)} ms after ${what}`);
  return frozenMs;
}

test("windows guest behind libvirt: a round is application-consistent", async () => {
  await using stage = await openStage();
  const usual = await playRound(stage.address);
  assert.equal(usual.consistency, "application", usual.reason);
});

void testLong(
  "windows guest behind libvirt: writers may be slower than libvirt and the guard wait",
  async (t) => {
    await using stage = await openStage();
    const { agent, address } = stage;
    agent.guest.faults.freezeMs = preparingMs;
    const slow = await playRound(address);
    assert.equal(agent.freezesMs.length, 1);
    assert.ok(tellFrozen(t, agent, "a freeze that libvirt did not wait for") < thawnMsMost);
    assert.equal(slow.consistency, "crash");
    assert.match(slow.reason ?? "", /not available/);
  },
);

void testLong(
  "windows guest behind libvirt: the guard thaws where Kluis dies while the writers prepare",
  async (t) => {
    await using stage = await openStage();
    const { agent, vm } = stage;
    agent.guest.faults.freezeMs = preparingMs;
    const { configDirectory, uri } = vm.host;
    const options = { uri, configDirectory, stateDirectory: join(vm.directory, "state") };
    const operation = { kind: "snapshot", request: application } as const;
    await using child = ChildRun.start({ options, vmId: vm.uuid, operation });
    while (!agent.log.includes("guest-fsfreeze-freeze")) await systemClock.sleep(20);
    await systemClock.sleep(1_000);
    child.signalGroup("SIGKILL");
    const patience = { timeoutMs: 2 * preparingMs, pollMs: 100, clock: systemClock };
    await waitUntil(() => Promise.resolve(agent.freezesMs.length > 0), patience);
    assert.ok(tellFrozen(t, agent, "a freeze whose Kluis was killed") < thawnMsMost);
  },
);
