/**
 * Goal: an application that a pre script has brought to rest goes on within 10 s, whoever dies or stops,
 * its post script runs exactly once, and no such snapshot is called application-consistent. Method: a
 * child process takes a snapshot and waits at a step; the test harms a party; the guest measures by its
 * own clock how long the application's writes waited.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { Consistency, SnapshotRequest } from "#ports/hypervisor.ts";
import { releaseBefore } from "#testing/release-before.ts";
import { runInGuest } from "../../lab/guest.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { configureScripts, readTrace, scriptOf } from "./guest-scripts.ts";
import { letPass, readLongestGap, startGapMeter } from "./guest-writers.ts";

const request: SnapshotRequest = { consistency: "application", freezeBudgetMs: 8_000 };
const rounds = process.env["KLUIS_LONG"] === "1" ? 10 : 1;
const gapSecondsMax = 10;
const resting = "/run/resting";
/** Longer than the supervisor in the guest waits. */
const untilSupervisorMs = 8_000;

interface Parties {
  readonly vm: DrivenVm;
  readonly child: ChildRun;
}

/** What is done to whom, and what the snapshot may be worth. */
interface Scenario {
  readonly name: string;
  readonly waitAt: VmStep;
  readonly harm: (parties: Parties) => Promise<void>;
  /** Empty: Kluis does not live to tell. */
  readonly outcomes: readonly Consistency[];
  /** Whether it is part of every run, not only of long ones. */
  readonly isUsual?: boolean;
}

async function signalGuard(vm: DrivenVm, signal: NodeJS.Signals): Promise<void> {
  const identity = await readFile(join(vm.runDirectory, "guard.json"), "utf8");
  process.kill((JSON.parse(identity) as ProcessIdentity).pid, signal);
}

const killKluis = ({ child }: Parties): Promise<void> => child.kill();

async function stopKluis({ child }: Parties): Promise<void> {
  child.signalGroup("SIGSTOP");
  await letPass(4_000);
  child.goOn();
  child.signalGroup("SIGCONT");
}

async function killGuard({ vm, child }: Parties): Promise<void> {
  await signalGuard(vm, "SIGKILL");
  child.goOn();
}

async function stopGuard({ vm, child }: Parties): Promise<void> {
  await signalGuard(vm, "SIGSTOP");
  child.goOn();
}

async function killBoth({ vm, child }: Parties): Promise<void> {
  await signalGuard(vm, "SIGKILL");
  await child.kill();
  await letPass(untilSupervisorMs);
}

async function stopBoth({ vm, child }: Parties): Promise<void> {
  await signalGuard(vm, "SIGSTOP");
  child.signalGroup("SIGSTOP");
  await letPass(untilSupervisorMs);
  child.goOn();
  child.signalGroup("SIGCONT");
  await signalGuard(vm, "SIGCONT");
}

const less: readonly Consistency[] = ["file-system", "crash"];

const scenarios: readonly Scenario[] = (["quiesced", "frozen"] as const).flatMap((waitAt) => [
  { name: `Kluis is killed, ${waitAt}`, waitAt, harm: killKluis, outcomes: [], isUsual: true },
  { name: `Kluis is stopped, ${waitAt}`, waitAt, harm: stopKluis, outcomes: less },
  {
    name: `the guard is killed, ${waitAt}`,
    waitAt,
    harm: killGuard,
    // Frozen: Kluis thaws and orders post in its place, which is as good.
    outcomes: waitAt === "frozen" ? ["application", ...less] : less,
    isUsual: waitAt === "quiesced",
  },
  {
    name: `the guard is stopped, ${waitAt}`,
    waitAt,
    harm: stopGuard,
    outcomes: ["application", ...less],
  },
  { name: `both are killed, ${waitAt}`, waitAt, harm: killBoth, outcomes: [], isUsual: true },
  {
    name: `both are stopped, ${waitAt}`,
    waitAt,
    harm: stopBoth,
    outcomes: less,
    isUsual: waitAt === "frozen",
  },
]);

async function prepare(vm: DrivenVm): Promise<void> {
  await configureScripts(vm.exec, {
    pre: scriptOf("pre", 0, `: >${resting}`),
    post: scriptOf("post", 0, `rm -f ${resting}`),
    config: {},
  });
}

async function play(scenario: Scenario, vm: DrivenVm, t: TestContext): Promise<void> {
  const { options, vmId, hypervisor } = vm;
  await prepare(vm);
  const { waitAt, name } = scenario;
  await using child = ChildRun.start({
    options,
    vmId,
    operation: { kind: "snapshot", request },
    waitAt,
  });
  await child.waitForStep(waitAt);
  await scenario.harm({ vm, child });
  if (scenario.outcomes.length > 0) {
    const outcome = await child.outcome();
    assert.equal(outcome.kind, "done", JSON.stringify(outcome));
    const { consistency, reason } = outcome.snapshot?.consistency ?? {};
    assert.ok(consistency !== undefined && scenario.outcomes.includes(consistency), reason);
    assert.equal(consistency === "application", reason === undefined, "a reason is given");
    t.diagnostic(`${name}: ${consistency} ${reason ?? ""}`);
  }
  await runInGuest(vm.exec, `until [ ! -e ${resting} ]; do sleep 0.05; done`);
  assert.equal(await readTrace(vm.exec), "pre post", "post ran, and once");
  const gap = await readLongestGap(vm);
  t.diagnostic(`${name}: the application waited ${gap.toFixed(2)} s at most`);
  assert.ok(gap <= gapSecondsMax, `the application waited ${String(gap)} s`);
  // The next operation clears up what is left, and the scripts are run again.
  const next = await hypervisor.takeSnapshot(vmId, request);
  assert.equal(next.consistency.evidence?.scripts?.post?.outcome, "succeeded");
  await releaseBefore(hypervisor, vmId, next.id);
  const living = await runInGuest(vm.exec, "grep -sE '^k[st]-' /proc/[0-9]*/comm; true");
  assert.equal(living, "", "neither supervisor nor watchdog lives on");
  await runInGuest(vm.exec, "rm /run/gap-log; sleep 0.2");
}

test("script safety: the application goes on within 10 s", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  await prepare(vm);
  await startGapMeter(vm, resting);
  await vm.hypervisor.takeSnapshot(vm.vmId, request);
  await runInGuest(vm.exec, "rm /run/gap-log; sleep 0.2");
  const isLong = rounds > 1;
  for (let round = 0; round < rounds; round += 1) {
    for (const scenario of scenarios.filter(({ isUsual }) => isLong || isUsual === true)) {
      await t.test(scenario.name, (inner) => play(scenario, vm, inner));
    }
  }
});
