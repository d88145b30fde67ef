/** What tests do in a guest, through whichever agent client they bring. */
import { KluisError } from "#base/kluis-error.ts";
import type { GuestExec } from "./guest-exec.ts";
import { planFio } from "./plan-fio.ts";

const pageBytes = 4096;
/** Under emulation a guest hashes and writes some 20 MB/s; a loaded machine is slower. */
const longRunTimeoutMs = 10 * 60 * 1000;

/**
 * Runs a shell script in the guest and returns what it printed. `args` are its $1, $2 …; nothing is
 * pasted into the script. Errors: AgentFailed where it exits with another code than 0.
 */
export async function runInGuest(
  exec: GuestExec,
  script: string,
  args: readonly string[] = [],
): Promise<string> {
  const result = await exec({
    path: "/bin/sh",
    args: ["-c", script, "lab", ...args],
    timeoutMs: longRunTimeoutMs,
  });
  if (result.exitCode === 0) return result.stdout;
  const said = result.stderr.trim() || result.stdout.trim();
  throw new KluisError(
    "AgentFailed",
    `Cannot run "${script}" in the guest: exit ${String(result.exitCode)}: ${said}`,
  );
}

/** SHA-256 of a file as the guest reads it, in hexadecimal. */
export async function hashGuestFile(exec: GuestExec, path: string): Promise<string> {
  const line = await runInGuest(exec, 'sha256sum "$1"', [path]);
  return line.slice(0, 64);
}

/** What a seeded file holds: same seed and size, same bytes, in every guest with the same fio. */
export interface SeededFile {
  /** 1 to 2^31. */
  readonly seed: number;
  /** A multiple of 4096. */
  readonly sizeBytes: number;
}

/** Writes a file of incompressible seeded bytes, durable on return; returns its SHA-256. */
export async function writeSeededFile(
  exec: GuestExec,
  path: string,
  file: SeededFile,
): Promise<string> {
  const blockBytes = file.sizeBytes % (1024 * 1024) === 0 ? 1024 * 1024 : pageBytes;
  await runFio(exec, path, [
    "--rw=write",
    `--bs=${String(blockBytes)}`,
    `--size=${String(file.sizeBytes)}`,
    `--randseed=${String(file.seed)}`,
  ]);
  return hashGuestFile(exec, path);
}

/** Pages to overwrite in a file. */
export interface RandomPages {
  readonly seed: number;
  /** Distinct pages, at most as many as the file has. */
  readonly pages: number;
  /** fsync after so many pages; only at the end where absent. */
  readonly syncEvery?: number;
}

/** Overwrites distinct random 4 KiB pages of an existing file, durable on return; returns its SHA-256. */
export async function writeRandomPages(
  exec: GuestExec,
  path: string,
  plan: RandomPages,
): Promise<string> {
  await runFio(exec, path, [
    "--rw=randwrite",
    `--bs=${String(pageBytes)}`,
    `--io_size=${String(plan.pages * pageBytes)}`,
    `--randseed=${String(plan.seed)}`,
    ...(plan.syncEvery === undefined ? [] : [`--fsync=${String(plan.syncEvery)}`]),
  ]);
  return hashGuestFile(exec, path);
}

async function runFio(exec: GuestExec, path: string, job: readonly string[]): Promise<void> {
  await runInGuest(exec, 'fio "$@"', planFio(path, job));
}

/** Makes everything written so far durable. */
export async function syncGuest(exec: GuestExec): Promise<void> {
  await runInGuest(exec, "sync");
}

/** Discards the free space of the file system mounted at `mountPoint`; returns the bytes trimmed. */
export async function trimFileSystem(exec: GuestExec, mountPoint: string): Promise<number> {
  const line = await runInGuest(exec, 'fstrim -v "$1"', [mountPoint]);
  const match = /\((\d+) bytes\)|: (\d+) bytes/u.exec(line);
  return Number(match?.[1] ?? match?.[2] ?? 0);
}

/** Sets the guest's wall clock; after a warm start it stands where the template was saved. */
export async function setGuestTime(exec: GuestExec, epochSeconds: number): Promise<void> {
  await runInGuest(exec, 'date -s "@$1"', [String(Math.trunc(epochSeconds))]);
}

/**
 * Starts a program of the guest in a session of its own; returns the pid that leads it. (The shell
 * waits until it does: a signal to the group would find nobody before.)
 */
export async function startInGuest(exec: GuestExec, command: readonly string[]): Promise<number> {
  const script =
    'setsid "$@" </dev/null >/dev/null 2>&1 & pid=$!; tries=0; ' +
    'until grep -qs ") [A-Z] [0-9]* $pid " /proc/$pid/stat || [ ! -e /proc/$pid ]; do ' +
    "sleep 0.01; tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 1; done; echo $pid";
  return Number(await runInGuest(exec, script, command));
}

/** Kills what {@link startInGuest} started, with all its children, and waits until they are gone. */
export async function killInGuest(exec: GuestExec, pid: number): Promise<void> {
  const script =
    'kill -KILL -- "-$1"; tries=0; ' +
    'while grep -qs ") [^ZX] [0-9]* $1 " /proc/[0-9]*/stat; do ' +
    "sleep 0.01; tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 1; done";
  await runInGuest(exec, script, [String(pid)]);
}
