/**
 * The watchdog inside the guest: a process armed before a freeze, which thaws every file system at
 * its deadline unless it was disarmed. It needs no host, no agent and no write to a file system.
 */
import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { runGuestProgram, type GuestProgramResult } from "./guest-commands.ts";
import type { AgentOptions, GuestAgent } from "./guest-agent.ts";

/** How long the guest may take to write out what is dirty before the watchdog is armed. */
export const GUEST_SYNC_TIMEOUT_MS = 30_000;
/** How long disarming may take. */
const DISARM_TIMEOUT_MS = 5_000;
/** Six bytes in hexadecimal: with `kt-` exactly the 15 characters of a process's name. */
const TOKEN_BYTES = 6;

/** One armed watchdog. */
export interface ArmedWatchdog {
  readonly token: string;
  /** When it was armed at the latest, on the agent's clock: it thaws `afterMs` later. */
  readonly armedAtMs: number;
}

/**
 * $1 token, $2 centiseconds until it thaws. Its name (`comm`) says which round it belongs to; the
 * name is set last, so that whoever reads it finds everything else done. The agent's service would
 * take it along when it ends, so it leaves that control group. `sleep` was started before the
 * freeze; what is started after it is read from disk at most, and reading goes on.
 */
const watchdogScript = `
for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/systemd/cgroup.procs; do
  [ -w "$group" ] && echo $$ >"$group"
done
echo -1000 >/proc/$$/oom_score_adj
trap '' HUP INT TERM PIPE
cd /
read -r now rest </proc/uptime
deadline=$(( \${now%.*}\${now#*.} + $2 ))
left=$2
echo "kt-$1" >/proc/$$/comm
while [ "$left" -gt 0 ]; do
  sleep "$((left / 100)).$(printf %02d $((left % 100)))" || sleep 1
  read -r now rest </proc/uptime
  left=$(( deadline - \${now%.*}\${now#*.} ))
done
rounds=0
while [ "$rounds" -lt 60 ]; do
  while read -r device mount rest; do
    case $device in
      //*) ;;
      /*) fsfreeze --unfreeze "$(printf '%b' "$mount")" ;;
    esac
  done </proc/mounts
  sleep 0.5 || sleep 1
  rounds=$((rounds + 1))
done
`;

/** $1 token, $2 centiseconds, $3 the watchdog. Kills what lives of earlier rounds; prints what is wrong. */
const armScript = `
for tool in setsid fsfreeze sleep grep sync; do
  command -v "$tool" >/dev/null || { echo "the guest has no $tool"; exit 3; }
done
sync
fsfreeze --help >/dev/null 2>&1
living() { grep -slE '^kt-[0-9a-f]{12}$' /proc/[0-9]*/comm; }
tries=0
for entry in $(living); do
  pid=\${entry#/proc/}
  kill -KILL "-\${pid%/comm}"
done
while [ -n "$(living)" ]; do
  [ "$tries" -lt 100 ] || { echo "a watchdog of an earlier round lives"; exit 4; }
  sleep 0.02
  tries=$((tries + 1))
done
setsid /bin/sh -c "$3" kluis-watchdog "$1" "$2" </dev/null >/dev/null 2>&1 &
pid=$!
tries=0
name=
until [ "$name" = "kt-$1" ]; do
  [ "$tries" -lt 300 ] || { echo "the watchdog does not start"; kill -KILL $pid; exit 5; }
  sleep 0.01
  tries=$((tries + 1))
  read -r name </proc/$pid/comm
done 2>/dev/null
`;

/** $1 token. Kills that watchdog and waits until it is gone. */
const disarmScript = `
name="kt-$1"
living() { grep -slx "$name" /proc/[0-9]*/comm; }
for entry in $(living); do
  pid=\${entry#/proc/}
  kill -KILL "-\${pid%/comm}"
done
tries=0
while [ -n "$(living)" ]; do
  [ "$tries" -lt 100 ] || { echo "the watchdog does not end"; exit 4; }
  sleep 0.02
  tries=$((tries + 1))
done
`;

/** A token for one round: twelve hexadecimal digits. */
export function createRoundToken(): string {
  return toHex(systemRandom.bytes(TOKEN_BYTES));
}

/**
 * Writes out what is dirty, ends watchdogs of earlier rounds and arms one that thaws `afterMs`
 * later. On return it sleeps. Errors: Agent* where the guest cannot have one: then nothing may be
 * frozen.
 */
export async function armWatchdog(
  agent: GuestAgent,
  options: AgentOptions & { readonly token?: string; readonly afterMs: number },
): Promise<ArmedWatchdog> {
  const token = options.token ?? createRoundToken();
  const centiseconds = String(Math.trunc(options.afterMs / 10));
  const result = await runGuestProgram(
    agent,
    { path: "/bin/sh", args: ["-c", armScript, "kluis-arm", token, centiseconds, watchdogScript] },
    { timeoutMs: GUEST_SYNC_TIMEOUT_MS, signal: options.signal },
  );
  assertDone(result, "arm the watchdog in the guest");
  return { token, armedAtMs: agent.clock.monotonicMs() };
}

/** Ends the watchdog of that round, whatever it does; it is no error if it has ended. */
export async function disarmWatchdog(
  agent: GuestAgent,
  token: string,
  options: AgentOptions = {},
): Promise<void> {
  const result = await runGuestProgram(
    agent,
    { path: "/bin/sh", args: ["-c", disarmScript, "kluis-disarm", token] },
    { timeoutMs: DISARM_TIMEOUT_MS, ...options },
  );
  assertDone(result, "disarm the watchdog in the guest");
}

function assertDone(result: GuestProgramResult, what: string): void {
  if (result.exitCode === 0) return;
  const said = `${result.stdout} ${result.stderr}`.trim().slice(0, 500);
  const reason = said === "" ? `exit ${String(result.exitCode)}` : said;
  throw new KluisError("AgentFailed", `Cannot ${what}: ${reason}`);
}
