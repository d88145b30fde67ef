/**
 * Goal: a frozen guest writes again within 10 s, whoever dies or stops, and a snapshot is called
 * consistent only if the guest was frozen all the time. Method: a child process takes a snapshot and
 * waits at a step; the test harms a party; the guest measures by its own clock how long its writes
 * waited.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import { runInGuest, startInGuest } from "../../lab/guest.ts";
import type { GuestKind } from "../../lab/guest-kind.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { letPass, readLongestGap, startGapMeter } from "./guest-writers.ts";

/** The longest that may be asked for, and one that lets a test wait less. */
const longest: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 10_000 };
const usual: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 5_000 };
const rounds = process.env["KLUIS_LONG"] === "1" ? 10 : 1;
const gapSecondsMax = 10;
/** Longer than the watchdog in the guest waits. */
const untilWatchdogMs = { longest: 9_000, usual: 5_000 };

/** Pids of the guest agent, in a guest with or without pidof. */
const agentPids = '$(grep -slx qemu-ga /proc/[0-9]*/comm | tr -dc "0-9\\n")';

/** The parties of a snapshot under way. */
interface Parties {
  readonly vm: DrivenVm;
  readonly child: ChildRun;
}

/** What is done to whom, and what the snapshot may be worth. */
interface Scenario {
  readonly name: string;
  readonly waitAt: VmStep;
  /** Default {@link usual}. */
  readonly request?: SnapshotRequest;
  /** Before the child starts, while the agent still takes commands. */
  readonly arrange?: (vm: DrivenVm) => Promise<void>;
  readonly harm: (parties: Parties) => Promise<void>;
  /** `none`: Kluis does not live to tell. */
  readonly outcome: "file-system" | "crash" | "none";
}

async function guardOf(vm: DrivenVm): Promise<ProcessIdentity> {
  return JSON.parse(await readFile(join(vm.runDirectory, "guard.json"), "utf8")) as ProcessIdentity;
}

async function signalGuard(vm: DrivenVm, signal: NodeJS.Signals): Promise<void> {
  process.kill((await guardOf(vm)).pid, signal);
}

/** Runs `commands` in the guest once a file there says so, without the agent. */
async function doInGuestWhen(
  vm: DrivenVm,
  plan: { readonly condition: string; readonly commands: string },
): Promise<void> {
  const script = `until ${plan.condition}; do sleep 0.02; done; ${plan.commands}`;
  await startInGuest(vm.exec, ["/bin/sh", "-c", script]);
}

/** The agent leaves this file while it holds file systems frozen. */
const isFrozen = "[ -e /run/qga.state.isfrozen ]";
const isArmed = "grep -qsE '^kt-' /proc/[0-9]*/comm";

const killAgent = (vm: DrivenVm): Promise<void> =>
  doInGuestWhen(vm, { condition: isFrozen, commands: `sleep 0.5; kill -KILL ${agentPids}` });

const stopAgent = (vm: DrivenVm, condition: string): Promise<void> =>
  doInGuestWhen(vm, {
    condition,
    commands: `kill -STOP ${agentPids}; sleep 8; kill -CONT ${agentPids}`,
  });

const scenarios: readonly Scenario[] = [
  {
    name: "the guard is killed",
    waitAt: "frozen",
    harm: async ({ vm, child }) => {
      await signalGuard(vm, "SIGKILL");
      child.goOn();
    },
    outcome: "file-system",
  },
  {
    name: "the guard is stopped",
    waitAt: "frozen",
    request: longest,
    harm: async ({ vm, child }) => {
      await signalGuard(vm, "SIGSTOP");
      child.goOn();
    },
    outcome: "file-system",
  },
  {
    name: "Kluis is killed with its process group",
    waitAt: "frozen",
    harm: ({ child }) => child.kill(),
    outcome: "none",
  },
  {
    name: "Kluis is stopped with its process group and goes on later",
    waitAt: "frozen",
    harm: async ({ child }) => {
      child.signalGroup("SIGSTOP");
      await letPass(4_000);
      child.goOn();
      child.signalGroup("SIGCONT");
    },
    outcome: "crash",
  },
  {
    name: "Kluis is slow",
    waitAt: "taken",
    harm: async ({ child }) => {
      await letPass(4_000);
      child.goOn();
    },
    outcome: "crash",
  },
  {
    name: "Kluis and the guard are stopped",
    waitAt: "frozen",
    harm: async ({ vm, child }) => {
      await signalGuard(vm, "SIGSTOP");
      child.signalGroup("SIGSTOP");
      await letPass(untilWatchdogMs.usual);
      child.goOn();
      child.signalGroup("SIGCONT");
      await signalGuard(vm, "SIGCONT");
    },
    outcome: "crash",
  },
  {
    name: "Kluis and the guard are killed",
    waitAt: "frozen",
    request: longest,
    harm: async ({ vm, child }) => {
      await signalGuard(vm, "SIGKILL");
      await child.kill();
      await letPass(untilWatchdogMs.longest);
    },
    outcome: "none",
  },
  {
    // The kernel holds the file systems frozen; the agent that init starts finds that and thaws them.
    name: "the agent is killed and started again",
    waitAt: "frozen",
    request: longest,
    arrange: killAgent,
    harm: async ({ child }) => {
      await letPass(2_000);
      child.goOn();
    },
    outcome: "file-system",
  },
  {
    name: "the agent stops while the guest is frozen",
    waitAt: "frozen",
    arrange: (vm) => stopAgent(vm, isFrozen),
    harm: async ({ child }) => {
      await letPass(2_000);
      child.goOn();
    },
    outcome: "crash",
  },
  {
    name: "the agent stops before it sees the freeze",
    waitAt: "attached",
    arrange: (vm) => stopAgent(vm, `${isArmed} && sleep 0.7`),
    harm: async ({ child }) => {
      await letPass(2_500);
      child.goOn();
    },
    outcome: "crash",
  },
  {
    name: "QEMU stands still for a while",
    waitAt: "frozen",
    request: longest,
    harm: async ({ vm, child }) => {
      const { pid } = await vm.machine();
      process.kill(pid, "SIGSTOP");
      child.goOn();
      await letPass(2_000);
      process.kill(pid, "SIGCONT");
    },
    outcome: "file-system",
  },
];

async function play(scenario: Scenario, vm: DrivenVm, t: TestContext): Promise<void> {
  const { options, vmId, hypervisor } = vm;
  await scenario.arrange?.(vm);
  const { waitAt, request = usual } = scenario;
  const operation = { kind: "snapshot", request } as const;
  await using child = ChildRun.start({ options, vmId, operation, waitAt });
  await child.waitForStep(waitAt);
  await scenario.harm({ vm, child });
  if (scenario.outcome !== "none") {
    const outcome = await child.outcome();
    assert.equal(outcome.kind, "done", JSON.stringify(outcome));
    const { consistency, reason } = outcome.snapshot?.consistency ?? {};
    assert.equal(consistency, scenario.outcome, reason);
    assert.equal(consistency === "crash", reason !== undefined, "a reason is given");
    t.diagnostic(`${scenario.name}: ${consistency} ${reason ?? ""}`);
  }
  await runInGuest(vm.exec, "true");
  // The next operation clears up what is left, and the guest can be frozen again.
  const next = await hypervisor.takeSnapshot(vmId, usual);
  assert.equal(next.consistency.consistency, "file-system", next.consistency.reason);
  await releaseBefore(hypervisor, vmId, next.id);
  const living = await runInGuest(vm.exec, `${isArmed} && echo armed; true`);
  assert.equal(living, "", "the watchdog was disarmed");
  const gap = await readLongestGap(vm);
  t.diagnostic(`${scenario.name}: the guest waited ${gap.toFixed(2)} s at most`);
  assert.ok(gap <= gapSecondsMax, `the guest waited ${String(gap)} s`);
  await runInGuest(vm.exec, "rm /run/gap-log; sleep 0.2");
}

test("freeze safety: the guest writes again within 10 s", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await startGapMeter(vm);
  for (let round = 0; round < rounds; round += 1) {
    for (const scenario of scenarios) {
      await t.test(scenario.name, (inner) => play(scenario, vm, inner));
    }
  }
});

test("freeze safety: the watchdog outlives the agent's service under systemd", async (t) => {
  const guest: GuestKind = "full";
  await using vm = await createDrivenVm({ guest });
  await vm.hypervisor.start(vm.vmId);
  await startGapMeter(vm);
  const harm = async ({ child }: Parties): Promise<void> => {
    await signalGuard(vm, "SIGKILL");
    await child.kill();
    await letPass(untilWatchdogMs.usual);
  };
  await play(
    { name: "all but the watchdog", waitAt: "frozen", arrange: killAgent, harm, outcome: "none" },
    vm,
    t,
  );
});

test("freeze safety: without an agent that may do it, the snapshot says why it is only crash-consistent", async (t) => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  await startGapMeter(vm);
  // The mini guest's init starts the agent again, with what its script says.
  const refuse = `sed -i 's/qemu-ga /qemu-ga -b guest-exec /' /etc/lab/agent; sync
    setsid sh -c 'sleep 0.3; kill -KILL ${agentPids}' </dev/null >/dev/null 2>&1 &`;
  await runInGuest(vm.exec, refuse);
  await letPass(1_500);
  const refused = await hypervisor.takeSnapshot(vmId, usual);
  assert.equal(refused.consistency.consistency, "crash");
  assert.match(refused.consistency.reason ?? "", /guest-exec/);
  t.diagnostic(refused.consistency.reason ?? "");
});

test("freeze safety: a silent agent delays a snapshot by seconds, not for ever", async (t) => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  await runInGuest(
    vm.exec,
    `setsid sh -c 'sleep 0.3; kill -STOP ${agentPids}' </dev/null >/dev/null 2>&1 &`,
  );
  await letPass(1_500);
  const startMs = performance.now();
  const silent = await hypervisor.takeSnapshot(vmId, usual);
  assert.equal(silent.consistency.consistency, "crash");
  assert.match(silent.consistency.reason ?? "", /did not answer/);
  const seconds = (performance.now() - startMs) / 1000;
  t.diagnostic(`${seconds.toFixed(1)} s: ${silent.consistency.reason ?? ""}`);
  assert.ok(seconds < 30);
});
