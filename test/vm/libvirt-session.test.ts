/**
 * Goal: the VMs of a user's own libvirt (`qemu:///session`) are taken, released and detached by a
 * Kluis of that user. Method: a libvirtd of a user without rights, and Kluis as the same user in a
 * process of its own; the machine needs no guest.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmod, chown, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Virsh, VIRSH_XML } from "#drivers/libvirt/virsh.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import { labFolderPrefix, stopProcessesOf, sweepAbandonedOnce } from "../../lab/lab-folder.ts";
import { ChildRun, type ChildPlan } from "./child-run.ts";

/** Nobody, and no group. */
const user = 65_534;
const uuid = "6b6c7569-7300-4000-8000-6c6162000002";
/** Its own libvirtd asks every QEMU what it can do. */
const readyTimeoutMs = 60_000;
const asUser: readonly string[] = [
  "setpriv",
  `--reuid=${String(user)}`,
  `--regid=${String(user)}`,
  "--clear-groups",
];
/** The user may read this checkout wherever it lies, and nothing more than others. */
const asReader: readonly string[] = [
  ...asUser,
  "--inh-caps=-all,+dac_read_search",
  "--ambient-caps=-all,+dac_read_search",
];
const crash = { consistency: "crash", freezeBudgetMs: 1_000 } as const;

/** A libvirt of the user, in a folder of his. */
async function startSession(root: string, virsh: Virsh): Promise<Daemon> {
  for (const name of ["home", "run", "images"]) {
    await mkdir(join(root, name));
    await chown(join(root, name), user, user);
  }
  await chmod(root, 0o711);
  const folders = { HOME: join(root, "home"), XDG_RUNTIME_DIR: join(root, "run") };
  const script =
    'mkdir -p "$HOME/.config/libvirt"; printf "%s" "$1" >"$HOME/.config/libvirt/qemu.conf"; exec libvirtd';
  const qemu = 'stdio_handler = "file"\n';
  const [command, ...args] = [...asUser, "sh", "-c", script, `kluis-session ${root}`, qemu];
  return spawnDaemon(command, args, {
    env: folders,
    isReady: () =>
      virsh.run(["list"]).then(
        () => true,
        () => false,
      ),
    readyTimeoutMs,
  });
}

test("libvirt session: a user's own VMs are taken, released and detached", async () => {
  await sweepAbandonedOnce();
  const root = await mkdtemp(join(tmpdir(), `${labFolderPrefix}${String(process.pid)}-`));
  const uri = `qemu+unix:///session?socket=${join(root, "run", "libvirt", "libvirt-sock")}`;
  const virsh = new Virsh(uri);
  const image = join(root, "images", "a.qcow2");
  try {
    await using _ = await startSession(root, virsh);
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", image, "8M"]);
    await chown(image, user, user);
    const xml = `<domain type='qemu'><name>own</name><uuid>${uuid}</uuid><memory unit='MiB'>64</memory>
      <os><type arch='x86_64' machine='pc-q35-6.2'>hvm</type></os>
      <cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
      <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${image}'/>
      <target dev='vda' bus='virtio'/></disk></devices></domain>`;
    await virsh.run(["define", VIRSH_XML], { xml });
    await virsh.run(["start", uuid]);
    const options = {
      uri,
      stateDirectory: join(root, "images", "state"),
      configDirectory: join(root, "home", ".config", "libvirt", "qemu"),
    };
    const run = async (operation: ChildPlan["operation"]) => {
      await using child = ChildRun.start({ options, vmId: uuid, operation }, asReader);
      const outcome = await child.outcome();
      assert.equal(outcome.kind, "done", JSON.stringify(outcome));
      return outcome.snapshot?.id ?? "";
    };
    await run({ kind: "snapshot", request: crash });
    const keepId = await run({ kind: "snapshot", request: crash });
    await run({ kind: "release", keepId });
    await run({ kind: "detach" });
    assert.deepEqual((await readdir(join(root, "images"))).toSorted(), ["a.qcow2", "state"]);
    assert.match(await virsh.run(["dumpxml", "--inactive", uuid]), new RegExp(`file='${image}'`));
    await virsh.run(["destroy", uuid]);
  } finally {
    await stopProcessesOf(root);
    await rm(root, { recursive: true, force: true });
  }
});
