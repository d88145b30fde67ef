/**
 * Goal: what the guest's agent is told and what XML holds is in no argument list, in no file and in
 * no history of virsh, also where the call is killed; and the agent gets exactly what was sent.
 * Method: canaries; the arguments of all processes are read again and again meanwhile; libvirtd is
 * stopped so that a call stands still with its XML, and is then killed.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { planVirshAgent } from "#drivers/guest/virsh-agent-channel.ts";
import { signalProcess } from "#drivers/process/process-identity.ts";
import { isInProcesses, watchProcesses } from "#testing/process-canary.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { createAgentExec } from "../../lab/agent-exec.ts";
import { runInGuest } from "../../lab/guest.ts";
import { labDomain, LibvirtVms } from "../../lab/libvirt-vm.ts";

const waitTimeoutMs = 60_000;
const pollMs = 5;
/** Programs that libvirt is asked by live for some milliseconds. */
const canaryPauseMs = 1;
const calls = 6;
/** Made of characters that shells, virsh, its line editor and JSON treat as something else. */
const alphabet = Array.from(
  "'\"\\;#$`!~&|<>(){}[]*?% =\t\n\r\u0003\u0004\u001b\u007fäé€\u{1f512}ab",
);
const vms = await LibvirtVms.open([2, 2]);
after(() => vms[Symbol.asyncDispose]());

/** Files below a folder that hold the text. */
async function findFiles(folder: string, text: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const found: string[] = [];
  for (const entry of entries.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name);
    if ((await readFile(path)).includes(text)) found.push(path);
  }
  return found;
}

async function waitFor(condition: () => Promise<boolean> | boolean, what: string): Promise<void> {
  const deadlineMs = systemClock.monotonicMs() + waitTimeoutMs;
  while (!(await condition())) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, `waited in vain for ${what}`);
    await systemClock.sleep(pollMs);
  }
}

test("secrets: what an agent is told reaches it unchanged and is in no argument list or history", async (t) => {
  const seed = testSeed();
  t.diagnostic(`KLUIS_SEED=${String(seed)}`);
  const prng = createPrng(seed);
  const canary = `canary-${String(prng.below(1e9))}-agent`;
  const history = join(homedir(), ".cache", "libvirt", "virsh", "history");
  const readHistory = (): Promise<string> => readFile(history, "utf8").catch(() => "");
  const before = await readHistory();
  await using vm = await vms.create();
  await vm.host.virsh.run(["start", vm.uuid]);
  const socketPath = join(vm.directory, "agent.sock");
  const address = planVirshAgent({ uri: vm.host.uri, domain: vm.uuid, socketPath });
  const exec = createAgentExec(address);
  await runInGuest(exec, ":");
  {
    await using canaries = watchProcesses(canary, canaryPauseMs);
    for (let call = 0; call < calls; call += 1) {
      const hostile = Array.from({ length: 400 }, () => alphabet[prng.below(alphabet.length)]);
      const words = [canary, hostile.join(""), "", "-c", "'", "\\"];
      const script = 'for word; do printf "%s\\0" "$word"; done';
      assert.deepEqual(await runInGuest(exec, script, words), `${words.join("\0")}\0`);
    }
    assert.ok(canaries.looks > 20, `looked ${String(canaries.looks)} times`);
  }
  assert.equal(await readHistory(), before, "virsh's history is as it was");
});

test("secrets: XML with passwords is in no file, not even of a call that was killed", async () => {
  const canary = `canary-${String(createPrng(testSeed()).below(1e9))}-xml`;
  const folder = await mkdtemp(join(tmpdir(), "kluis-secrets-"));
  await using vm = await vms.create();
  const { host } = vm;
  const xml = (await host.virsh.run(["dumpxml", "--inactive", vm.uuid])).replace(
    "<devices>",
    `<devices><graphics type='vnc' port='-1' passwd='${canary.slice(0, 8)}'/><!--${canary}-->`,
  );
  await mkdir(join(folder, "tmp"));
  const module = JSON.stringify(
    new URL("../../src/drivers/libvirt/virsh.ts", import.meta.url).href,
  );
  const program = `
    const { Virsh, VIRSH_XML } = await import(${module});
    let xml = ""; for await (const chunk of process.stdin) xml += chunk;
    await new Virsh(${JSON.stringify(host.uri)}).run(["define", VIRSH_XML], { xml });`;
  try {
    await signalProcess(host.daemon.identity, "SIGSTOP");
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["pipe", "inherit", "inherit"],
      env: { TMPDIR: join(folder, "tmp") },
    });
    const exited = once(child, "exit");
    child.stdin.end(xml);
    // The new session's socket is in the arguments of the call that waits now.
    await waitFor(() => isInProcesses("define\0"), "the call");
    assert.ok(!isInProcesses(canary), "the canary was in an argument list or an environment");
    for (const place of [folder, "/dev/shm"]) assert.deepEqual(await findFiles(place, canary), []);
    child.kill("SIGKILL");
    await exited;
    for (const place of [folder, "/dev/shm"]) assert.deepEqual(await findFiles(place, canary), []);
  } finally {
    await signalProcess(host.daemon.identity, "SIGCONT");
    await rm(folder, { recursive: true, force: true });
  }
  await host.virsh.run(["define", "/dev/stdin"], { xml });
  const shown = await host.virsh.run(["dumpxml", "--inactive", "--security-info", labDomain.uuid]);
  assert.ok(shown.includes(canary.slice(0, 8)), "the XML has arrived");
});
