/**
 * Where QEMU's monitor of a running domain can be reached without libvirt, which owns it while it
 * lives. libvirt tells nobody, and may keep its sockets where only it and QEMU see them, so QEMU's
 * process is asked: by what it was started with, what it has open and on what it listens.
 */
import type { BigIntStats } from "node:fs";
import { access, constants, readdir, stat } from "node:fs/promises";

import { orUnseen, readOrUnseen } from "#drivers/process/proc-files.ts";

const monitorSuffix = "/monitor.sock";
/** Of /proc/net/unix: the socket listens. */
const listeningFlag = 0x10000;

/** What a process has open: sockets by inode, files by {@link toKey}. */
interface OpenFiles {
  readonly sockets: ReadonlySet<bigint>;
  readonly files: ReadonlySet<string>;
}

/** Where QEMU's monitor is. */
export interface FoundMonitor {
  /** Of its socket, as this process can open it. */
  readonly path: string;
  readonly qemuPid: number;
}

/**
 * The monitor of a running domain; `undefined` where it cannot be found or opened. `imagePath` is an image that QEMU has open: two libvirts may run one UUID.
 */
export async function findMonitor(
  uuid: string,
  imagePath: string,
): Promise<FoundMonitor | undefined> {
  const image = await stat(imagePath, { bigint: true });
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const folder = `/proc/${pid}`;
    const args = (await readOrUnseen(`${folder}/cmdline`)).split("\0");
    if (args[args.indexOf("-uuid") + 1] !== uuid) continue;
    const { sockets, files } = await readOpenFiles(`${folder}/fd`);
    if (!files.has(toKey(image))) continue;
    const path = parseMonitorPath(await readOrUnseen(`${folder}/net/unix`), sockets);
    if (path === undefined) continue;
    const seen = `${folder}/root${path}`;
    if (await isWritable(seen)) return { path: seen, qemuPid: Number(pid) };
  }
  return undefined;
}

/** The listening socket of a monitor among `sockets`, out of /proc/PID/net/unix. */
export function parseMonitorPath(table: string, sockets: ReadonlySet<bigint>): string | undefined {
  for (const line of table.split("\n")) {
    // Num RefCount Protocol Flags Type St Inode Path
    const match = /^\S+: \S+ \S+ ([0-9A-F]+) \S+ \S+ +(\d+) (\/.*)$/.exec(line);
    const [, flags = "", inode = "", path = ""] = match ?? [];
    if (match === null || (Number.parseInt(flags, 16) & listeningFlag) === 0) continue;
    if (path.endsWith(monitorSuffix) && sockets.has(BigInt(inode))) return path;
  }
  return undefined;
}

async function readOpenFiles(folder: string): Promise<OpenFiles> {
  const sockets = new Set<bigint>();
  const files = new Set<string>();
  for (const name of await orUnseen(readdir(folder), [])) {
    const open = await orUnseen(stat(`${folder}/${name}`, { bigint: true }), undefined);
    if (open?.isSocket() === true) sockets.add(open.ino);
    if (open?.isFile() === true || open?.isBlockDevice() === true) files.add(toKey(open));
  }
  return { sockets, files };
}

/** A file by its device and inode; a device by its number, since a QEMU may have nodes of its own. */
function toKey(file: BigIntStats): string {
  if (file.isBlockDevice()) return `device ${String(file.rdev)}`;
  return `${String(file.dev)}:${String(file.ino)}`;
}

function isWritable(path: string): Promise<boolean> {
  const writable = access(path, constants.W_OK).then(() => true);
  return orUnseen(writable, false);
}
