/**
 * Questions that share one virsh: answers and refusals are those of a virsh of its own; where it was killed or
 * has lost libvirt the answer is of the libvirt that is there now; it waits for nobody longer than it may, and
 * ends by itself. No question gets another's answer.
 */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { isVirshRefusal, Virsh, VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import { signalProcess } from "#drivers/process/process-identity.ts";
import { openLibvirtHost, type LibvirtLab } from "../../lab/libvirt-host.ts";

const waitTimeoutMs = 20_000;
const pollMs = 20;
const list = ["list", "--all", "--name"];
const uuid = "6b6c7569-7300-4000-8000-6c6162000002";
/** What virsh, its line editor and our marks treat as something else. */
const description = "virsh # echo 'kluis end' \"; echo --err\nkluis begin 1;\terror: é ü 日本";

let host: LibvirtLab;

before(async () => {
  host = await openLibvirtHost();
  const xml =
    `<domain type='qemu'><name>asked</name><uuid>${uuid}</uuid><description>${description}</description>` +
    "<memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os></domain>";
  await host.virsh.run(["define", VIRSH_XML], { xml });
});

after(async () => {
  await host[Symbol.asyncDispose]();
});

/** Processes that answer our questions: those of this libvirt that were given no command. */
async function findAsked(): Promise<readonly number[]> {
  const pids: number[] = [];
  for (const entry of await readdir("/proc")) {
    const line = await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "");
    if (line.includes("virsh\0-q\0-c\0") && line.endsWith(`${host.uri}\0`))
      pids.push(Number(entry));
  }
  return pids;
}

async function waitFor(condition: () => Promise<boolean>, what: string): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + waitTimeoutMs;
  while (!(await condition())) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, `waited in vain for ${what}`);
    await systemClock.sleep(pollMs);
  }
}

test("libvirt questions: answers and refusals are those of a virsh of its own, from one process", async () => {
  using virsh = new Virsh(host.uri);
  for (let round = 0; round < 12; round += 1) {
    const dump = ["dumpxml", "--inactive", "--security-info", `--domain=${uuid}`];
    const text = await virsh.ask(dump);
    assert.equal(text.trim(), (await virsh.run(dump)).trim());
    assert.ok(text.includes("日本"));
    assert.equal((await virsh.ask(list)).trim(), "asked");
  }
  assert.equal((await findAsked()).length, 1);
  for (const how of ["ask", "run"] as const) {
    await assert.rejects(virsh[how](["dumpxml", "--domain=nobody"]), (error) =>
      isKluisError(error, "VmNotFound"),
    );
    await assert.rejects(virsh[how](["managedsave-dumpxml", `--domain=${uuid}`]), (error) => {
      assert.ok(isVirshRefusal(error));
      assert.match(error.message, /does not have managed save/);
      return true;
    });
  }
  assert.equal((await findAsked()).length, 1, "a refusal ends nothing");
  // Words that its quotes do not leave alone.
  await assert.rejects(virsh.ask(["dumpxml", "--domain=a'; list"]), (error) =>
    isKluisError(error, "VmNotFound"),
  );
});

test("libvirt questions: those that are asked at once get their own answers", async () => {
  using virsh = new Virsh(host.uri);
  const answers = await Promise.all([
    virsh.ask(list),
    virsh.ask(["list", "--all", "--uuid"]),
    virsh.ask(["domstate", uuid]),
  ]);
  assert.deepEqual(
    answers.map((answer) => answer.trim()),
    ["asked", uuid, "shut off"],
  );
});

test("libvirt questions: a virsh that was killed or has lost libvirt is replaced", async () => {
  using virsh = new Virsh(host.uri);
  await virsh.ask(list);
  const [pid = 0] = await findAsked();
  process.kill(pid, "SIGKILL");
  assert.equal((await virsh.ask(list)).trim(), "asked", "killed just before");
  await host.kill();
  await assert.rejects(virsh.ask(list), (error) => {
    assert.ok(isKluisError(error, "QmpFailed"));
    assert.ok(!isVirshRefusal(error), "nobody has refused it");
    return true;
  });
  await host.restart();
  assert.equal((await virsh.ask(list)).trim(), "asked", "the libvirt that is there now");
});

test("libvirt questions: a libvirt that stands still is waited for as long as was said", async () => {
  using virsh = new Virsh(host.uri);
  await virsh.ask(list);
  await signalProcess(host.daemon.identity, "SIGSTOP");
  try {
    await assert.rejects(virsh.ask(list, { timeoutMs: 300 }), (error) =>
      isKluisError(error, "ToolFailed"),
    );
    const stopping = new AbortController();
    const asked = virsh.ask(list, { signal: stopping.signal });
    const reason = new Error("not wanted any more");
    stopping.abort(reason);
    await assert.rejects(asked, reason);
  } finally {
    await signalProcess(host.daemon.identity, "SIGCONT");
  }
  assert.equal((await virsh.ask(list)).trim(), "asked");
});

test("libvirt questions: the process ends when nobody asks any more, and when it is disposed of", async () => {
  const virsh = new Virsh(host.uri);
  await virsh.ask(list);
  await waitFor(async () => (await findAsked()).length === 0, "the end of an idle virsh");
  await virsh.ask(list);
  virsh[Symbol.dispose]();
  await waitFor(async () => (await findAsked()).length === 0, "the end of a virsh");
});
