/**
 * The doors: what the outside world enters through, and where. Product code anywhere else takes
 * the value, the port or the object that came through the door.
 */

/** One thing with a door. `allowed` are path prefixes; `instead` completes "… ; use". */
export interface Door {
  readonly what: string;
  readonly pattern: RegExp;
  readonly allowed: readonly string[];
  readonly instead: string;
  /** Whether tests, tools and scripts must keep to it as well. */
  readonly everywhere?: true;
}

const clock = ["src/base/clock.ts"];
const random = ["src/base/random.ts"];

/** Doors of built-in modules; the pattern is matched with the import's specifier. */
export const moduleDoors: readonly Door[] = [
  {
    what: "child processes",
    pattern: /^node:(child_process|cluster)$/,
    allowed: ["src/drivers/process/"],
    instead: "the functions of #drivers/process",
  },
  {
    what: "worker threads",
    pattern: /^node:worker_threads$/,
    allowed: ["src/vault/workers/"],
    instead: "the worker pool of the vault",
  },
  {
    what: "sockets",
    pattern: /^node:(net|tls|https?|http2|dgram|dns|dns\/promises)$/,
    allowed: ["src/drivers/"],
    instead: "a port, and a driver behind it",
  },
  {
    what: "files",
    pattern: /^node:(fs|fs\/promises|sqlite)$/,
    allowed: ["src/drivers/", "src/vault/cache", "src/bin/"],
    instead: "a port, and a driver behind it",
  },
  {
    what: "the terminal",
    pattern: /^node:(readline|readline\/promises|tty|repl)$/,
    allowed: ["src/cli/", "src/bin/"],
    instead: "a value that cli or bin passes in",
  },
  {
    what: "the machine",
    pattern: /^node:(os|process)$/,
    allowed: ["src/drivers/", "src/vault/", "src/bin/"],
    instead: "a value that bin passes in",
  },
  {
    what: "time",
    pattern: /^node:(timers|timers\/promises|perf_hooks)$/,
    allowed: clock,
    instead: "the Clock of #base/clock.ts",
  },
];

/** Doors of globals and names; the pattern is matched with code without comments and literals. */
export const codeDoors: readonly Door[] = [
  {
    what: "time",
    pattern: /\bDate\.now\b|\bnew Date\(\s*\)|\bperformance\.now\b|(?<![.\w#])process\.hrtime\b/g,
    allowed: clock,
    instead: "nowMs or monotonicMs of a Clock (#base/clock.ts)",
  },
  {
    what: "timers",
    pattern:
      /(?<![.\w#]|function )(?:globalThis\.)?(?:set|clear)(?:Timeout|Interval)\s*\(|\bAbortSignal\.timeout\b/g,
    allowed: clock,
    instead: "sleep of a Clock (#base/clock.ts)",
  },
  {
    what: "Math.random",
    pattern: /\bMath\.random\b/g,
    allowed: ["src/testing/seed.ts"],
    instead: "a RandomSource, or in tests a generator that prints its seed",
    everywhere: true,
  },
  {
    what: "randomness",
    pattern:
      /\b(?:randomBytes|randomFill|randomFillSync|randomInt|randomUUID|randomUUIDv7|getRandomValues|webcrypto|generateKey|generateKeySync|generateKeyPair|generateKeyPairSync)\b/g,
    allowed: random,
    instead: "a RandomSource (#base/random.ts)",
  },
  {
    what: "the environment and the end of the process",
    pattern: /(?<![.\w#])process\.(?:env|exit|argv|execArgv|cwd|chdir|umask|abort)\b/g,
    allowed: ["src/bin/"],
    instead: "a value that bin passes in",
  },
  {
    what: "signals and the exit code of the process",
    pattern: /(?<![.\w#])process\.(?:on|once|off|exitCode)\b/g,
    allowed: ["src/bin/"],
    instead: "an AbortSignal that bin passes in",
  },
  {
    what: "signals to processes",
    pattern: /(?<![.\w#])process\.kill\b/g,
    allowed: ["src/drivers/process/"],
    instead: "the functions of #drivers/process",
  },
  {
    what: "the console",
    pattern: /\bconsole\.\w/g,
    allowed: ["src/cli/", "src/bin/"],
    instead: "a return value, an event or a KluisError",
  },
  {
    what: "the terminal",
    pattern: /(?<![.\w#])process\.(?:stdin|stdout|stderr)\b/g,
    allowed: ["src/cli/", "src/bin/"],
    instead: "a value that cli or bin passes in",
  },
  {
    what: "the network",
    pattern: /(?<![.\w#])fetch\s*\(|\bnew (?:WebSocket|EventSource)\b/g,
    allowed: ["src/drivers/"],
    instead: "a port, and a driver behind it",
  },
];
