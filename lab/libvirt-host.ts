/**
 * A libvirt of its own: libvirtd started by hand, with configuration, sockets and state in a folder
 * of the test, which it alone sees in place of the system's. Nothing of the machine's own libvirt
 * is read or written.
 */
import { chmod, cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Virsh } from "#drivers/libvirt/virsh.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import { signalProcess } from "#drivers/process/process-identity.ts";
import { labFolderPrefix, stopProcessesOf, sweepAbandonedOnce } from "./lab-folder.ts";

/** The first start asks every QEMU what it can do: 9 s on a loaded machine. */
const readyTimeoutMs = 60_000;
const probeTimeoutMs = 30_000;

/** Folders of libvirt and what takes their place, below the root. */
const mounts: readonly (readonly [string, string])[] = [
  ["etc", "/etc/libvirt"],
  ["lib", "/var/lib/libvirt"],
  ["run", "/run/libvirt"],
  ["log", "/var/log/libvirt"],
  ["cache", "/var/cache/libvirt"],
];

/**
 * The lab emulates. Where /dev/kvm belongs to root alone, as on many machines for tests, libvirt 9
 * asks every QEMU again and again in each call: asked as another user QEMU opens it all the same (by a
 * capability that it has only then), and libvirt takes that answer for out of date. A file on a
 * read-only mount can be opened for writing by nobody, root included.
 */
const hideKvm: readonly string[] = [
  'if [ -e /dev/kvm ]; then : >"$1/no-kvm"; chmod 0600 "$1/no-kvm"',
  'mount --bind "$1/no-kvm" /dev/kvm; mount -o remount,bind,ro /dev/kvm; fi',
];

/** How a libvirt runs its machines. */
export interface LibvirtHostOptions {
  /**
   * `root` (default): as root, and images keep their owner. `unprivileged`: as nobody, and libvirt
   * gives images to it and takes them back.
   */
  readonly qemuUser?: "root" | "unprivileged";
  /** Port of 127.0.0.1 on which it listens too, open to everybody. */
  readonly tcpPort?: number;
  /** One thread does all calls, so that what it writes comes in one order. */
  readonly isSerial?: boolean;
  /** That of another host, whose name it gives too; a migration between libvirts needs that. */
  readonly hostUuid?: string;
  /** What an earlier libvirt found out about QEMU; saves the time to ask again. */
  readonly capabilities?: string;
}

/** See above. Disposing ends libvirtd and its machines, and removes the folder. */
export interface LibvirtLab extends AsyncDisposable {
  readonly root: string;
  readonly uri: string;
  readonly virsh: Virsh;
  /** Where libvirt keeps the XML of domains. */
  readonly configDirectory: string;
  readonly saveDirectory: string;
  readonly capabilitiesDirectory: string;
  readonly daemon: Daemon;
  /** Kills libvirtd; its machines go on. */
  kill(): Promise<void>;
  /** Starts libvirtd again after {@link kill}. */
  restart(): Promise<void>;
}

/** Starts a libvirt. */
export async function openLibvirtHost(options: LibvirtHostOptions = {}): Promise<LibvirtLab> {
  await sweepAbandonedOnce();
  const root = await mkdtemp(join(tmpdir(), `${labFolderPrefix}${String(process.pid)}-`));
  // QEMU reaches its images as its own user; libvirt opens no folder to it.
  await chmod(root, 0o711);
  const uri = `qemu:///system?socket=${join(root, "run", "libvirt-sock")}`;
  const virsh = new Virsh(uri);
  const capabilitiesDirectory = join(root, "cache", "qemu", "capabilities");
  await writeConfiguration(root, options);
  if (options.capabilities !== undefined) {
    await cp(options.capabilities, capabilitiesDirectory, { recursive: true });
  }
  // Without it libvirtd does not look at what it should listen to.
  const flags = options.tcpPort === undefined ? [] : ["--listen"];
  let daemon = await startDaemon(root, virsh, flags);
  return {
    root,
    uri,
    virsh,
    configDirectory: join(root, "etc", "qemu"),
    saveDirectory: join(root, "lib", "qemu", "save"),
    capabilitiesDirectory,
    get daemon() {
      return daemon;
    },
    kill: async () => {
      await signalProcess(daemon.identity, "SIGKILL");
      await daemon.exited;
    },
    restart: async () => {
      daemon = await startDaemon(root, virsh, flags);
    },
    [Symbol.asyncDispose]: async () => {
      await daemon.stop();
      await stopProcessesOf(root);
      await rm(root, { recursive: true, force: true });
    },
  };
}

async function writeConfiguration(root: string, options: LibvirtHostOptions): Promise<void> {
  const { qemuUser: user = "root", tcpPort, isSerial = false, hostUuid } = options;
  for (const [folder] of mounts) await mkdir(join(root, folder), { recursive: true, mode: 0o755 });
  const name = user === "root" ? "root" : "nobody";
  const group = user === "root" ? "root" : "nogroup";
  const qemu = [
    `user = "${name}"`,
    `group = "${group}"`,
    `dynamic_ownership = ${user === "root" ? "0" : "1"}`,
    'security_driver = "none"',
    "namespaces = []",
    "cgroup_controllers = []",
    'stdio_handler = "file"',
  ];
  await writeFile(join(root, "etc", "qemu.conf"), `${qemu.join("\n")}\n`);
  if (hostUuid !== undefined) await writeFile(join(root, "hostname"), `host-${hostUuid}\n`);
  const daemon = [
    `unix_sock_dir = "${join(root, "run")}"`,
    'auth_unix_rw = "none"',
    'auth_unix_ro = "none"',
    "listen_tls = 0",
    `listen_tcp = ${tcpPort === undefined ? "0" : "1"}`,
    'listen_addr = "127.0.0.1"',
    `tcp_port = "${String(tcpPort ?? 0)}"`,
    'auth_tcp = "none"',
    ...(hostUuid === undefined ? [] : [`host_uuid = "${hostUuid}"`]),
    ...(isSerial ? ["min_workers = 1", "max_workers = 1", "prio_workers = 1"] : []),
  ];
  await writeFile(join(root, "etc", "libvirtd.conf"), `${daemon.join("\n")}\n`);
}

async function startDaemon(root: string, virsh: Virsh, flags: readonly string[]): Promise<Daemon> {
  const binds = mounts.map(([from, to]) => `mkdir -p ${to}; mount --bind "$1/${from}" ${to}`);
  const script = [
    "set -e",
    "mount --make-rprivate /",
    'if [ -e "$1/hostname" ]; then hostname -F "$1/hostname"; fi',
    ...binds,
    ...hideKvm,
    'rm -f "$1/run/libvirtd.pid"',
    'exec libvirtd -f "$1/etc/libvirtd.conf" -p "$1/run/libvirtd.pid" ${2:-}',
  ].join("\n");
  return spawnDaemon(
    "unshare",
    ["--mount", "--uts", "sh", "-c", script, "kluis-libvirtd", root, ...flags],
    {
      isReady: async () => {
        try {
          await virsh.run(["list"], { timeoutMs: probeTimeoutMs });
          return true;
        } catch {
          // Not yet; the daemon's own end is seen by whoever waits.
          return false;
        }
      },
      readyTimeoutMs,
    },
  );
}
