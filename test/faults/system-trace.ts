/** Reads what strace wrote about a process that changes files. */
import { assert } from "#base/assert.ts";

/** One system call; it began and ended at these positions of the trace, among those of all threads. */
export interface TracedCall {
  readonly call: string;
  /** The arguments as strace prints them, with the path of each file descriptor in `<>`. */
  readonly args: string;
  readonly result: number;
  /** Name of the error, as `EEXIST`; empty where the call worked. */
  readonly errno: string;
  readonly beganAt: number;
  readonly endedAt: number;
}

/** Arguments of strace that {@link parseTrace} understands. */
export const straceArgs: readonly string[] = [
  ["-f", "-y", "-s", "200", "--signal=none"],
  ["-e", "trace=openat,write,writev,pwrite64,pwritev,fsync,fdatasync,link,linkat,mkdir"],
].flat();

const beginPattern = /^(\d+)\s+(\w+)\((.*)$/;
const resumePattern = /^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$/;
const endPattern = /^(.*)\)\s+= (-?\d+)(?:<[^>]*>)?(?: (E[A-Z0-9]+) .*)?$/;
const unfinished = " <unfinished ...>";

/** All calls that ended, in the order of their ends. */
export function parseTrace(text: string): TracedCall[] {
  const calls: TracedCall[] = [];
  const open = new Map<string, { call: string; args: string; beganAt: number }>();
  for (const [at, line] of text.split("\n").entries()) {
    const resumed = resumePattern.exec(line);
    if (resumed !== null) {
      const [, pid = "", call, rest = ""] = resumed;
      const begun = open.get(pid);
      assert(begun !== undefined && begun.call === call, `line ${at} resumes a call that began`);
      open.delete(pid);
      calls.push(finish(begun.call, begun.args + rest, { beganAt: begun.beganAt, endedAt: at }));
      continue;
    }
    const [, pid = "", call = "", rest = ""] = beginPattern.exec(line) ?? [];
    if (call === "") continue;
    if (rest.endsWith(unfinished)) {
      open.set(pid, { call, args: rest.slice(0, -unfinished.length), beganAt: at });
    } else {
      calls.push(finish(call, rest, { beganAt: at, endedAt: at }));
    }
  }
  return calls;
}

function finish(
  call: string,
  text: string,
  span: { beganAt: number; endedAt: number },
): TracedCall {
  const [, args, result, errno] = endPattern.exec(text) ?? [];
  assert(args !== undefined && result !== undefined, `a call ends with a result: ${text}`);
  return { call, args, result: Number(result), errno: errno ?? "", ...span };
}

/** The paths in quotes among the arguments. */
export function quotedPaths(args: string): string[] {
  return [...args.matchAll(/"([^"]*)"/g)].map(([, path]) => path ?? "");
}

/** The path of the file descriptor that is the first argument. */
export function descriptorPath(args: string): string {
  return /^\d+<([^>]*)>/.exec(args)?.[1] ?? "";
}
