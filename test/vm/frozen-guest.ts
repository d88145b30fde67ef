/**
 * An application in a guest that a pre script brings to rest and a post script lets go on; it notes by
 * the guest's monotonic clock when each of its writes was durable.
 */
import { systemClock } from "#base/clock.ts";
import type { GuestExec } from "../../lab/guest-exec.ts";
import { runInGuest, startInGuest } from "../../lab/guest.ts";
import { GuestConsole } from "../../lab/guest-console.ts";
import type { FrozenGuestKind } from "./frozen-matrix.ts";
import { configureScripts, scriptOf } from "./guest-scripts.ts";

const log = "/run/gap-log";
const lastWrite = "/run/last-write";
const resting = "/run/resting";
const config = "/etc/azure";
/** A script that a test stops is ended after this long. */
const scriptTimeoutSeconds = 30;
/** How often it is looked for a step of some 200 ms, and for the application, whose wait the guest measures. */
const stepPollMs = 50;
const goesOnPollMs = 200;
/** An application that wrote so lately writes. */
const writesWithinSeconds = 1.5;
const beginTimeoutMs = 30_000;
const answerTimeoutMs = 60_000;

/** Opens what {@link nap} reads: a pipe into which nobody writes. */
const openNap = "exec 4<>/run/nap";
/** A short wait of the guest's shell without a process of its own: emulated, each costs some 7 ms. */
function nap(seconds: string): string {
  return `read -t ${seconds} unused <&4`;
}

const isWriting = `[ ! -e ${resting} ] && read -r last <${lastWrite} && read -r now rest </proc/uptime && [ $((\${now%.*}\${now#*.} - \${last%.*}\${last#*.})) -lt ${writesWithinSeconds * 100} ]`;

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
    // On a file system that is mounted so, a write that has returned is durable.
    await runInGuest(exec, "mkfifo /run/nap; mount -o remount,sync /data/vdb");
    const loop = `${openNap}
    while :; do
      while [ -e ${resting} ]; do ${nap("0.1")}; done
      if echo x 1<>/data/vdb/gap; then
        read -r up rest </proc/uptime
        echo "$up" >>${log}
        echo "$up" >${lastWrite}
      fi
      ${nap("0.2")}
    done`;
    await startInGuest(exec, ["/bin/sh", "-c", loop]);
    return new FrozenGuest(await GuestConsole.open(exec, ackSocket));
  }

  /** Forgets what was observed, in a guest with scripts or without; the application writes when this resolves. */
  async begin(kind: FrozenGuestKind): Promise<void> {
    const off = `${config}.off`;
    const [from, to] = kind === "plain" ? [config, off] : [off, config];
    await this.console.run(
      `[ ! -e ${from} ] || mv ${from} ${to}; rm -f /run/at-pre /run/at-post /run/script-pid ${lastWrite}; : >/run/trace; : >${log}`,
    );
    if (!(await this.goesOn(beginTimeoutMs))) throw new Error("the guest's application rests");
  }

  /** Waits for a condition of the guest's shell; false after `timeoutMs`. */
  async reaches(condition: string, timeoutMs: number, pollMs = stepPollMs): Promise<boolean> {
    const looks = String(Math.ceil(timeoutMs / pollMs));
    const wait = nap((pollMs / 1000).toFixed(2));
    const loop = `${openNap}; n=0; until ${condition}; do [ $n -lt ${looks} ] || exit; ${wait}; n=$((n+1)); done 2>/dev/null; echo yes`;
    // A guest that has no processor for itself takes longer for its looks.
    return (await this.console.run(loop, 8 * timeoutMs + answerTimeoutMs)) === "yes";
  }

  /** Waits until the application writes; false after `timeoutMs`. */
  async goesOn(timeoutMs: number): Promise<boolean> {
    return this.reaches(isWriting, timeoutMs, goesOnPollMs);
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
      gapSeconds:
        times.length === 0
          ? Infinity
          : Math.max(...times.map((time, at) => (ends[at] ?? time) - time)),
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
