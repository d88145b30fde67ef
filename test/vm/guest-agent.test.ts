/**
 * Goal: what Kluis asks of a guest agent works in a busybox guest and in a Debian guest, and the
 * watchdog in the guest thaws, is disarmed, and is alone. Method: real agents in lab VMs.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import {
  freezeGuest,
  isGuestFrozen,
  listGuestFileSystems,
  pingGuest,
  queryAgentInfo,
  readGuestFile,
  runGuestProgram,
  thawGuest,
  writeGuestFile,
} from "#drivers/guest/guest-commands.ts";
import { armWatchdog, disarmWatchdog } from "#drivers/guest/guest-watchdog.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import { systemClock } from "#base/clock.ts";
import type { GuestKind } from "../../lab/guest-kind.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";

async function openAgent(vm: DrivenVm): Promise<GuestAgent> {
  return GuestAgent.open(vm.paths.agentSocket, { timeoutMs: 60_000 });
}

async function shell(agent: GuestAgent, script: string): Promise<string> {
  const result = await runGuestProgram(agent, { path: "/bin/sh", args: ["-c", script] });
  assert.equal(result.exitCode, 0, result.stderr);
  return result.stdout;
}

const countWatchdogs = "grep -slE '^kt-[0-9a-f]{12}$' /proc/[0-9]*/comm | wc -l";
/** A write that waits while the file system is frozen, and when it was done. */
const probeWrite =
  "setsid sh -c 'echo x >/data/vdb/probe; sync; touch /run/written' </dev/null >/dev/null 2>&1 &";

for (const guest of ["mini", "full"] as const satisfies readonly GuestKind[]) {
  test(`guest commands: run programs and move files in the ${guest} guest`, async () => {
    await using vm = await createDrivenVm({ guest });
    await vm.hypervisor.start(vm.vmId);
    await using agent = await openAgent(vm);
    await pingGuest(agent);
    const info = await queryAgentInfo(agent);
    assert.ok(info.enabledCommands.has("guest-fsfreeze-freeze"));
    const program = { path: "/bin/sh", args: ["-c", "cat; echo err >&2; exit 3"] };
    const result = await runGuestProgram(agent, { ...program, stdin: Buffer.from("hello") });
    assert.deepEqual(result, { exitCode: 3, stdout: "hello", stderr: "err\n" });
    const killed = await runGuestProgram(agent, { path: "/bin/sh", args: ["-c", "kill -9 $$"] });
    assert.equal(killed.exitCode, 137);
    await assert.rejects(
      runGuestProgram(agent, { path: "/bin/sleep", args: ["9"] }, { timeoutMs: 200 }),
      (error) => isKluisError(error, "AgentFailed") || isKluisError(error, "AgentUnavailable"),
    );
    const bytes = createPrng(testSeed()).bytes(700_001);
    await writeGuestFile(agent, "/root/file", { bytes });
    const hash = createHash("sha256").update(bytes).digest("hex");
    assert.equal((await shell(agent, "sha256sum /root/file")).slice(0, 64), hash);
    assert.deepEqual(Buffer.from(await readGuestFile(agent, "/root/file")), Buffer.from(bytes));
    await assert.rejects(readGuestFile(agent, "/no/such/file"), (error) =>
      isKluisError(error, "AgentFailed"),
    );
    const mounts = (await listGuestFileSystems(agent)).map((each) => each.mountPoint).sort();
    assert.deepEqual(mounts, ["/", "/data/vdb", "/data/vdc"]);
  });

  test(`guest watchdog: thaws the ${guest} guest at its time, from memory alone`, async () => {
    await using vm = await createDrivenVm({ guest });
    await vm.hypervisor.start(vm.vmId);
    await using agent = await openAgent(vm);
    await armWatchdog(agent, { afterMs: 2_500 });
    await shell(agent, `${probeWrite} echo 3 >/proc/sys/vm/drop_caches`);
    await shell(agent, "until [ -e /run/written ]; do sleep 0.01; done; rm /run/written");
    await shell(
      agent,
      `setsid sh -c 'sleep 0.3; ${probeWrite.replaceAll("'", `'"'"'`)}' >/dev/null 2>&1 &`,
    );
    assert.equal(await freezeGuest(agent), 3);
    assert.equal(await isGuestFrozen(agent), true);
    await assert.rejects(shell(agent, "true"), (error) => isKluisError(error, "AgentFailed"));
    // The agent cannot see that somebody else has thawed: only its thaw tells, by its count.
    await systemClock.sleep(4_000);
    assert.equal(await isGuestFrozen(agent), true);
    assert.equal(await thawGuest(agent), 0);
    await shell(agent, "until [ -e /run/written ]; do sleep 0.01; done");
  });

  test(`guest watchdog: is disarmed by its token, and never two in the ${guest} guest`, async () => {
    await using vm = await createDrivenVm({ guest });
    await vm.hypervisor.start(vm.vmId);
    await using agent = await openAgent(vm);
    const first = await armWatchdog(agent, { afterMs: 60_000 });
    const second = await armWatchdog(agent, { afterMs: 60_000 });
    assert.equal(await shell(agent, countWatchdogs), "1\n");
    await disarmWatchdog(agent, first.token);
    assert.equal(await shell(agent, countWatchdogs), "1\n", "the token is that of another round");
    await disarmWatchdog(agent, second.token);
    assert.equal(await shell(agent, countWatchdogs), "0\n");
    await disarmWatchdog(agent, second.token);
    const noSleepLeft = async (): Promise<boolean> =>
      (await shell(agent, "grep -slx sleep /proc/[0-9]*/comm | wc -l")) === "0\n";
    const patience = { timeoutMs: 5_000, pollMs: 50, clock: systemClock };
    assert.ok(await waitUntil(noSleepLeft, patience), "it took its children with it");
  });
}
