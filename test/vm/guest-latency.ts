/** How long a guest's own writes and reads take, by fio in the guest and the guest's monotonic clock. */
import { runInGuest, startInGuest } from "../../lab/guest.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";

const logName = "/run/lab-gaps";
const writerFileMiB = 8;

/** How far apart writes were that had been made durable, one after the other. */
export interface WriteGaps {
  readonly writes: number;
  readonly longestMs: number;
  readonly p99Ms: number;
  /** From its first write to its last. */
  readonly lastWriteMs: number;
}

/**
 * Starts a writer of 4 KiB pages, each followed by fsync, that ends after so many seconds, and waits
 * until it has opened its file; returns its pid. A page is written when the fsync of the one before has returned.
 */
export async function startFsyncWriter(
  exec: GuestExec,
  path: string,
  seconds: number,
): Promise<number> {
  await runInGuest(exec, `rm -f ${logName}*`);
  const pid = await startInGuest(exec, [
    "fio",
    "--name=gaps",
    "--thread",
    "--ioengine=psync",
    "--rw=write",
    "--bs=4k",
    "--fsync=1",
    `--filename=${path}`,
    `--size=${writerFileMiB}m`,
    "--time_based=1",
    `--runtime=${seconds}`,
    `--write_lat_log=${logName}`,
  ]);
  const opened =
    'until ls -l "/proc/$2/fd" | grep -qF "$1" || [ ! -e "/proc/$2" ]; do usleep 20000; done';
  await runInGuest(exec, opened, [path, String(pid)]);
  return pid;
}

/** Ends the writer `pid`, where it has not ended, and reads the gaps between its writes. */
export async function endFsyncWriter(exec: GuestExec, pid: number): Promise<WriteGaps> {
  const script = `kill -INT "$1" 2>/dev/null
    while [ -e "/proc/$1" ] && ! grep -qs ") Z" "/proc/$1/stat"; do usleep 100000; done
    awk -F, '$3 == 1 { if (last != "") print $1 - last; last = $1 }' ${logName}_clat.1.log | sort -n >${logName}
    awk '{ gaps[NR] = $1; sum += $1 } END { print NR, gaps[NR], gaps[int(NR * 0.99 + 0.999)], sum }' ${logName}`;
  const [writes, longestMs, p99Ms, lastWriteMs] = (await runInGuest(exec, script, [String(pid)]))
    .trim()
    .split(" ")
    .map(Number);
  if (
    writes === undefined ||
    longestMs === undefined ||
    p99Ms === undefined ||
    lastWriteMs === undefined ||
    !(writes > 1)
  ) {
    throw new Error("the guest's writer wrote no log");
  }
  return { writes, longestMs, p99Ms, lastWriteMs };
}

/** Makes so many MiB of a file dirty in the guest's page cache, which keeps them until it is told to sync. */
export async function makeDirty(exec: GuestExec, path: string, sizeMiB: number): Promise<void> {
  const script = `cd /proc/sys/vm; echo 90 >dirty_ratio; echo 80 >dirty_background_ratio
    echo 0 >dirty_writeback_centisecs; echo 360000 >dirty_expire_centisecs
    fio --name=dirty --thread --ioengine=psync --rw=write --bs=1m --size="$2"m --filename="$1" --invalidate=0 --fallocate=none >/dev/null
    awk '/^Dirty:/ { print $2 }' /proc/meminfo`;
  const dirtyKiB = Number(await runInGuest(exec, script, [path, String(sizeMiB)]));
  if (!(dirtyKiB >= sizeMiB * 1024)) throw new Error(`only ${dirtyKiB} KiB are dirty in the guest`);
}

/** The 99th percentile of reads of random 4 KiB pages past the guest's cache, in microseconds. */
export async function readLatencyP99(
  exec: GuestExec,
  device: string,
  seconds: number,
): Promise<number> {
  const job =
    "--name=reads --thread --ioengine=psync --rw=randread --bs=4k --direct=1 --time_based=1 --output-format=json";
  const json = await runInGuest(exec, `fio ${job} --filename="$1" --runtime="$2"`, [
    device,
    String(seconds),
  ]);
  const { jobs } = JSON.parse(json.slice(json.indexOf("{"))) as FioReport;
  const p99Ns = jobs[0]?.read.clat_ns.percentile["99.000000"];
  if (p99Ns === undefined) throw new Error("fio told no percentiles");
  return p99Ns / 1000;
}

interface FioReport {
  readonly jobs: readonly {
    readonly read: {
      readonly clat_ns: { readonly percentile: Readonly<Record<string, number>> };
    };
  }[];
}
