/**
 * An application in a guest that a pre script brings to rest and a post script lets go on; it notes by
 * the guest's monotonic clock when each of its writes was durable.
 */
import { systemClock } from "#base/clock.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import { runInGuest, startInGuest } from "../../lab/guest.ts";
import { GuestConsole } from "../../lab/guest-console.ts";
import { configureScripts, scriptOf } from "./guest-scripts.ts";

const log = "/run/gap-log";
const resting = "/run/resting";
/** A script that a test stops is ended after this long. */
const scriptTimeoutSeconds = 30;
const pollMs = 100;
/** An application that wrote so lately writes. */
const writesWithinSeconds = 1.5;

/** What the application did in one case, by the guest's clock. */
export interface Observed {
  /** The longest time between two writes. */
  readonly gapSeconds: number;
  /** When each write was durable. */
  readonly writes: readonly number[];
  /** What ran, each with the time at which it began. */
  readonly trace: readonly { readonly script: string; readonly atSeconds: number }[];
}

/** See above. Everything goes through the console, whatever became of the agent. */
export class FrozenGuest implements Disposable {
  readonly console: GuestConsole;

  private constructor(guestConsole: GuestConsole) {
    this.console = guestConsole;
  }

  static async start(exec: GuestExec, ackSocket: string): Promise<FrozenGuest> {
    const note = (name: string): string => `read -r up rest </proc/uptime
      echo "${name}:$up" >>/run/trace; echo $$ >/run/script-pid`;
    await configureScripts(exec, {
      pre: scriptOf("pre", 0, `${note("pre")}; : >${resting}; : >/run/at-pre; sleep 0.3`),
      post: scriptOf("post", 0, `${note("post")}; : >/run/at-post; sleep 0.2; rm -f ${resting}`),
      config: { timeoutInSeconds: scriptTimeoutSeconds, postScriptNoOfRetries: 1 },
    });
    // The files of scripts of init's file system are read again after a freeze without a write.
    await runInGuest(exec, "sync; cat /etc/azure/* >/dev/null");
    const loop = `while :; do
      while [ -e ${resting} ]; do sleep 0.1; done
      echo x >/data/vdb/gap && sync /data/vdb/gap
      read -r up rest </proc/uptime
      echo "$up" >>${log}
      sleep 0.1
    done`;
    await startInGuest(exec, ["/bin/sh", "-c", loop]);
    return new FrozenGuest(await GuestConsole.open(exec, ackSocket));
  }

  /** Forgets what was observed; the application writes when this resolves. */
  async begin(): Promise<void> {
    await this.console.run("rm -f /run/at-pre /run/at-post /run/script-pid; : >/run/trace");
    await this.console.run(`: >${log}`);
    await this.console.run(`until [ -s ${log} ]; do sleep 0.02; done`);
  }

  /** Waits for a condition of the guest's shell; false after `timeoutMs`. */
  async reaches(condition: string, timeoutMs: number): Promise<boolean> {
    const looks = String(Math.ceil(timeoutMs / 50));
    const loop = `n=0; until ${condition} || [ $n -ge ${looks} ]; do sleep 0.05; n=$((n+1)); done`;
    // A guest that has no processor for itself takes longer for its looks.
    const answer = await this.console.run(`${loop}; ${condition} && echo yes`, 8 * timeoutMs);
    return answer === "yes";
  }

  /** Whether the application writes now. */
  async isWriting(): Promise<boolean> {
    const said = await this.console.run(
      `[ -e ${resting} ] && echo rests; tail -n 1 ${log}; cut -d ' ' -f 1 /proc/uptime`,
    );
    const [last = "rests", now] = said.split(" ");
    return last !== "rests" && Number(now) - Number(last) < writesWithinSeconds;
  }

  /** Waits until the application writes; false after `timeoutMs`. */
  async goesOn(timeoutMs: number): Promise<boolean> {
    const deadlineMs = systemClock.monotonicMs() + timeoutMs;
    while (!(await this.isWriting())) {
      if (systemClock.monotonicMs() > deadlineMs) return false;
      await systemClock.sleep(pollMs);
    }
    return true;
  }

  /** What was observed since {@link begin}, up to now. */
  async observe(): Promise<Observed> {
    const said = await this.console.run(
      `echo $(cat ${log}) / $(grep : /run/trace) / $(cut -d ' ' -f 1 /proc/uptime)`,
    );
    const [writes = "", trace = "", now = ""] = said.split("/");
    const times = writes
      .split(" ")
      .filter((word) => word !== "")
      .map(Number);
    const ends = [...times.slice(1), Number(now)];
    return {
      gapSeconds: Math.max(...times.map((time, at) => (ends[at] ?? time) - time)),
      writes: times,
      trace: trace
        .split(" ")
        .filter((word) => word !== "")
        .map((word) => {
          const [script = "", at] = word.split(":");
          return { script, atSeconds: Number(at) };
        }),
    };
  }

  /** The guest's clock at a time of the host, and how far that may be wrong, in seconds. */
  async readClock(): Promise<{ readonly offset: number; readonly error: number }> {
    const before = systemClock.nowMs() / 1000;
    const now = Number(await this.console.run("cut -d ' ' -f 1 /proc/uptime"));
    const after = systemClock.nowMs() / 1000;
    return { offset: now - (before + after) / 2, error: (after - before) / 2 };
  }

  [Symbol.dispose](): void {
    this.console[Symbol.dispose]();
  }
}
