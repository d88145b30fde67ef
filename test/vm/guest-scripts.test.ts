/**
 * Goal: the guest's pre and post scripts are run by the rules of docs/design/extension.md, on real
 * guests. Method: scripts that leave a trace in the guest's memory; each case arranges files, takes a
 * snapshot and looks at the record, the trace, and whether anything lives on.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { waitUntil } from "#drivers/guest/deadline.ts";
import type { ConsistencyRecord, SnapshotRequest } from "#ports/hypervisor.ts";
import { runInGuest } from "../../lab/guest.ts";
import { createDrivenVm, type DrivenVm } from "./driven-vm.ts";
import { configureScripts, readTrace, scriptOf } from "./guest-scripts.ts";

const application: SnapshotRequest = { consistency: "application", freezeBudgetMs: 10_000 };

/** One row of the matrix. */
interface Case {
  readonly name: string;
  /** Shell in the guest, after usual scripts were put there. */
  readonly arrange?: string;
  readonly config?: Readonly<Record<string, unknown>>;
  /** A consistency, or the name of the error that refuses the backup. */
  readonly expected: string;
  readonly code: number;
  readonly trace: string;
}

/** The root and two for data. */
const disksOfGuest = 3;

const succeed = { pre: scriptOf("pre", 0), post: scriptOf("post", 0) };

const cases: readonly Case[] = [
  { name: "both succeed", expected: "application", code: 0, trace: "pre post" },
  {
    name: "the pre script is missing",
    arrange: "rm /etc/azure/pre.sh",
    expected: "file-system",
    code: 302,
    trace: "",
  },
  {
    name: "the post script is missing and the backup may not go on",
    arrange: "rm /etc/azure/post.sh",
    config: { continueBackupOnFailure: false },
    expected: "Post-ScriptNotFound",
    code: 303,
    trace: "",
  },
  {
    name: "a script has the wrong mode",
    arrange: "chmod 750 /etc/azure/pre.sh",
    config: { continueBackupOnFailure: false },
    expected: "InsufficientPermissionforPre-Script",
    code: 306,
    trace: "",
  },
  {
    name: "a script has the wrong owner",
    arrange: "chown 1000 /etc/azure/post.sh",
    expected: "file-system",
    code: 307,
    trace: "",
  },
  {
    name: "the configuration has the wrong mode",
    arrange: "chmod 644 /etc/azure/VMSnapshotScriptPluginConfig.json",
    config: { continueBackupOnFailure: false },
    expected: "file-system",
    code: 317,
    trace: "",
  },
  {
    name: "the configuration has the wrong owner",
    arrange: "chown 1000 /etc/azure/VMSnapshotScriptPluginConfig.json",
    expected: "file-system",
    code: 318,
    trace: "",
  },
  {
    name: "the configuration is no JSON",
    arrange: "echo '{' >/etc/azure/VMSnapshotScriptPluginConfig.json",
    expected: "file-system",
    code: 305,
    trace: "",
  },
  {
    name: "the host configuration may be written by others",
    arrange:
      "echo '[pre_post]' >/etc/azure/VMSnapshotPluginHost.conf; chmod 646 /etc/azure/VMSnapshotPluginHost.conf",
    expected: "file-system",
    code: 314,
    trace: "",
  },
  {
    name: "pre fails, is run again, and the backup goes on",
    arrange: scriptOf("pre", 3),
    config: { preScriptNoOfRetries: 2 },
    expected: "file-system",
    code: 300,
    trace: "pre pre pre post",
  },
  {
    name: "pre succeeds at the second try",
    arrange: scriptOf("pre", '$([ "$(grep -c pre /run/trace)" -ge 2 ]; echo $?)'),
    config: { preScriptNoOfRetries: 2 },
    expected: "application",
    code: 0,
    trace: "pre pre post",
  },
  {
    name: "pre fails and the backup may not go on",
    arrange: scriptOf("pre", 3),
    config: { continueBackupOnFailure: false },
    expected: "Pre-ScriptExecutionFailed",
    code: 300,
    trace: "pre post",
  },
  {
    name: "pre takes too long",
    arrange: scriptOf("pre", 0, "sleep 300"),
    config: { timeoutInSeconds: 1 },
    expected: "file-system",
    code: 308,
    trace: "pre post",
  },
  {
    name: "pre takes too long and the backup may not go on",
    arrange: scriptOf("pre", 0, "sleep 300"),
    config: { timeoutInSeconds: 1, continueBackupOnFailure: false },
    expected: "Pre-ScriptTimeout",
    code: 308,
    trace: "pre post",
  },
  {
    name: "post fails",
    arrange: scriptOf("post", 4),
    config: { postScriptNoOfRetries: 1 },
    expected: "file-system",
    code: 301,
    trace: "pre post post",
  },
  {
    name: "post takes too long and is run again",
    arrange: scriptOf("post", 0, "sleep 300"),
    config: { timeoutInSeconds: 1 },
    expected: "file-system",
    code: 309,
    trace: "pre post post",
  },
  {
    name: "post is killed and run again",
    arrange: scriptOf("post", 0, '[ "$(grep -c post /run/trace)" -ge 2 ] || kill -KILL $$'),
    expected: "application",
    code: 0,
    trace: "pre post post",
  },
  {
    name: "post fails and the backup may not go on",
    arrange: scriptOf("post", 4),
    config: { continueBackupOnFailure: false },
    expected: "Post-ScriptExecutionFailed",
    code: 301,
    trace: "pre post",
  },
  {
    name: "nothing is frozen where the scripts do without",
    config: { fsFreezeEnabled: false },
    expected: "application",
    code: 0,
    trace: "pre post",
  },
  {
    name: "nothing is frozen and a script fails",
    arrange: scriptOf("post", 1),
    config: { fsFreezeEnabled: false },
    expected: "Post-ScriptExecutionFailed",
    code: 301,
    trace: "pre post",
  },
];

async function play(row: Case, vm: DrivenVm, t: TestContext): Promise<void> {
  const { hypervisor, vmId } = vm;
  await configureScripts(vm.exec, { ...succeed, config: row.config ?? {} });
  if (row.arrange !== undefined) await runInGuest(vm.exec, row.arrange);
  const before = await snapshotIds(vm);
  let record: ConsistencyRecord | undefined;
  try {
    const snapshot = await hypervisor.takeSnapshot(vmId, application);
    record = snapshot.consistency;
    assert.equal(record.consistency, row.expected, record.reason);
    assert.equal(record.evidence?.scripts?.resultCode, row.code);
    assert.equal(record.consistency === "application", record.reason === undefined, record.reason);
  } catch (error) {
    if (!isKluisError(error, "GuestScriptFailed")) throw error;
    assert.equal(error.details["scriptError"], row.expected, error.message);
    assert.equal(error.details["resultCode"], String(row.code));
    assert.deepEqual(await snapshotIds(vm), before, "it is no recovery point");
  }
  t.diagnostic(JSON.stringify(record ?? row.expected));
  assert.equal(await readTrace(vm.exec), row.trace);
  await assertNothingLives(vm);
}

/** A watchdog that was disarmed is gone at once; what it slept by ends a moment later. */
async function assertNothingLives(vm: DrivenVm): Promise<void> {
  assert.equal(await runInGuest(vm.exec, "grep -slE '^k[st]-' /proc/[0-9]*/comm; true"), "");
  const hasNoSleep = async (): Promise<boolean> =>
    (await runInGuest(vm.exec, "pidof sleep; true")) === "";
  const patience = { timeoutMs: 5_000, pollMs: 50, clock: systemClock };
  assert.ok(await waitUntil(hasNoSleep, patience), "nothing of the round lives on");
}

async function snapshotIds(vm: DrivenVm): Promise<readonly string[]> {
  return (await vm.hypervisor.listSnapshots(vm.vmId)).map(({ id }) => id);
}

test("guest scripts: every rule of the framework", async (t) => {
  await using vm = await createDrivenVm();
  await vm.hypervisor.start(vm.vmId);
  // What a guest does for the first time under emulation takes seconds.
  await vm.hypervisor.takeSnapshot(vm.vmId, application);
  for (const row of cases) await t.test(row.name, (inner) => play(row, vm, inner));
});

test("guest scripts: a post script that refuses each time leaves no more layers each time", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const config = { continueBackupOnFailure: false };
  await configureScripts(vm.exec, { ...succeed, post: scriptOf("post", 4), config });
  for (let backup = 1; backup <= 3; backup += 1) {
    await assert.rejects(hypervisor.takeSnapshot(vmId, application), (error) =>
      isKluisError(error, "GuestScriptFailed"),
    );
  }
  const layers = await vm.layerFiles();
  // The ones that the guest writes.
  assert.equal(layers.length, disksOfGuest, layers.join(" "));
  assert.deepEqual(await snapshotIds(vm), []);
});

test("guest scripts: the extension is put in, is replaced, tells its state, and goes without a trace", async (t) => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await assert.rejects(hypervisor.manageExtension(vmId, "status"), (error) =>
    isKluisError(error, "VmStateWrong"),
  );
  await hypervisor.start(vmId);
  await runInGuest(vm.exec, "true");
  // Mount points of other file systems are none of its own.
  const files =
    "find / -xdev -newer /run/mark ! -path /run ! -path /proc ! -path /dev ! -path /tmp";
  assert.deepEqual(await hypervisor.manageExtension(vmId, "status"), {
    isInstalled: false,
    changes: [],
  });
  await runInGuest(vm.exec, "touch /run/mark; sleep 1.1");
  const { consistency } = await hypervisor.takeSnapshot(vmId, application);
  assert.equal(consistency.consistency, "file-system", consistency.reason);
  assert.equal(consistency.reason, undefined, "a guest without scripts is the usual one");
  assert.deepEqual(consistency.evidence?.mountsFrozen, ["/", "/data/vdb", "/data/vdc"]);
  const state = await hypervisor.manageExtension(vmId, "status");
  assert.deepEqual(
    [state.isInstalled, state.isCurrent, state.lastStatus],
    [true, true, "file-system"],
  );
  t.diagnostic(JSON.stringify(state));
  const changed = (await runInGuest(vm.exec, files)).split("\n").filter((path) => path !== "");
  const listed = state.changes.map((change) => change.replace(/^file /, ""));
  for (const path of changed) {
    const isListed = listed.some(
      (file) => file === path || file.startsWith(`${path}/`) || path === "/",
    );
    assert.ok(isListed, `${path} was changed and is not listed`);
  }
  await runInGuest(vm.exec, "echo 'version=0.9' >/var/lib/kluis/VMSnapshotLinux/extension.sh");
  const old = await hypervisor.manageExtension(vmId, "status");
  assert.deepEqual([old.isCurrent, old.version], [false, "0.9"]);
  await hypervisor.takeSnapshot(vmId, application);
  assert.equal((await hypervisor.manageExtension(vmId, "status")).isCurrent, true, "replaced");
  const removed = await hypervisor.manageExtension(vmId, "remove");
  assert.deepEqual(removed, { isInstalled: false, changes: [] });
  await runInGuest(vm.exec, "[ ! -e /var/lib/kluis ] && [ ! -e /run/kluis ]");
});

test("guest scripts: a guest that cannot take the extension is backed up all the same", async (t) => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  await configureScripts(vm.exec, { ...succeed, config: {} });
  await runInGuest(vm.exec, "mkdir -p /var/lib && echo >/var/lib/kluis");
  const { consistency } = await hypervisor.takeSnapshot(vmId, application);
  assert.equal(consistency.consistency, "file-system");
  assert.match(consistency.reason ?? "", /no scripts were run: Cannot install/);
  t.diagnostic(consistency.reason ?? "");
  assert.equal(await readTrace(vm.exec), "");
});

test("guest scripts: mount points are left out as the request and the guest say", async () => {
  await using vm = await createDrivenVm();
  const { hypervisor, vmId } = vm;
  await hypervisor.start(vmId);
  const tuning = `mkdir -p /etc/azure; printf '[SnapshotThread]\nMountsToSkip = /data/vdb\n' >/etc/azure/vmbackup.conf`;
  await runInGuest(vm.exec, tuning);
  const own = await hypervisor.takeSnapshot(vmId, application);
  assert.deepEqual(own.consistency.evidence?.mountsFrozen, ["/", "/data/vdc"]);
  assert.deepEqual(own.consistency.evidence.mountsSkipped, ["/data/vdb"]);
  const asked = await hypervisor.takeSnapshot(vmId, {
    ...application,
    mountsToSkip: ["/data/vdc"],
  });
  assert.deepEqual(asked.consistency.evidence?.mountsFrozen, ["/"]);
});
