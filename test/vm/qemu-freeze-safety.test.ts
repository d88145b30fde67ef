/**
 * Goal: a guest with systemd writes again within 10 s though Kluis, its guard and the agent die; and
 * without an agent that answers, a snapshot is only crash-consistent, says why, and is not held up.
 * (Every party and every step: never-frozen.test.ts.) Method: a child process takes a snapshot and
 * waits at a step; the test kills; the guest measures by its own clock how long its writes waited.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import type { ProcessIdentity } from "#drivers/process/process-identity.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import { runInGuest, startInGuest } from "../../lab/guest.ts";
import { ChildRun } from "./child-run.ts";
import { createDrivenVm } from "./driven-vm.ts";
import { assertShortGap, letPass, startGapMeter } from "./guest-writers.ts";

/** Lets a test wait less than the longest that may be asked for. */
const usual: SnapshotRequest = { consistency: "file-system", freezeBudgetMs: 5_000 };
/** Longer than the watchdog in the guest waits. */
const untilWatchdogMs = 5_000;

/** Pids of the guest agent, in a guest with or without pidof. */
const agentPids = '$(grep -slx qemu-ga /proc/[0-9]*/comm | tr -dc "0-9\\n")';

test("freeze safety: the watchdog outlives the agent's service under systemd", async (t) => {
  await using vm = await createDrivenVm({ guest: "full" });
  const { options, vmId, hypervisor } = vm;
  await hypervisor.start(vmId);
  await startGapMeter(vm);
  // The agent leaves this file while it holds file systems frozen.
  const killAgent = `until [ -e /run/qga.state.isfrozen ]; do sleep 0.02; done
    sleep 0.5; kill -KILL ${agentPids}`;
  await startInGuest(vm.exec, ["/bin/sh", "-c", killAgent]);
  const operation = { kind: "snapshot", request: usual } as const;
  await using child = ChildRun.start({ options, vmId, operation, waitAt: "frozen" });
  await child.waitForStep("frozen");
  const guard = await readFile(join(vm.runDirectory, "guard.json"), "utf8");
  process.kill((JSON.parse(guard) as ProcessIdentity).pid, "SIGKILL");
  await child.kill();
  await letPass(untilWatchdogMs);
  await runInGuest(vm.exec, "true");
  // The next operation clears up what is left, and the guest can be frozen again.
  const next = await hypervisor.takeSnapshot(vmId, usual);
  assert.equal(next.consistency.consistency, "file-system", next.consistency.reason);
  const living = await runInGuest(vm.exec, "grep -sE '^k[st]-' /proc/[0-9]*/comm; true");
  assert.equal(living, "", "the watchdog was disarmed");
  await assertShortGap(vm, t, "agent, guard and Kluis killed");
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
