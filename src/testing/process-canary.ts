/** Looks for a secret in what every user of the host can see of processes. */
import { readdirSync, readFileSync } from "node:fs";

import { systemClock } from "#base/clock.ts";

/** A look at all processes takes some milliseconds of a processor that tests need. */
const PAUSE_MS_DEFAULT = 200;

/** Disposing ends the search, and throws where the text was seen. */
export interface ProcessCanary extends AsyncDisposable {
  /** How often all processes were looked at. */
  readonly looks: number;
}

/** Whether an argument list or an environment of any process holds the text. */
export function isInProcesses(text: string): boolean {
  return readdirSync("/proc").some((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    return ["cmdline", "environ"].some((name) => {
      try {
        return readFileSync(`/proc/${pid}/${name}`).includes(text);
      } catch {
        // It has ended meanwhile.
        return false;
      }
    });
  });
}

/** Looks for the text again and again, with so long a pause between two looks. */
export function watchProcesses(text: string, pauseMs = PAUSE_MS_DEFAULT): ProcessCanary {
  const over = new AbortController();
  let [seen, looks] = [0, 0];
  const looking = (async () => {
    while (!over.signal.aborted) {
      if (isInProcesses(text)) seen += 1;
      looks += 1;
      await systemClock.sleep(pauseMs);
    }
  })();
  return {
    get looks() {
      return looks;
    },
    [Symbol.asyncDispose]: async () => {
      over.abort();
      await looking;
      if (seen > 0) throw new Error(`"${text}" was in an argument or an environment`);
    },
  };
}
