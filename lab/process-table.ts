/** Identity of processes by /proc: a pid alone may have been taken over by another process. */
import { readFile, readdir } from "node:fs/promises";

/** Field 22 of /proc/PID/stat, counted after the command name, which may hold spaces. */
const startTimeIndex = 19;

/** When the process started, in clock ticks since boot; `undefined` where there is none (or a zombie). */
export async function processStartTime(pid: number): Promise<string | undefined> {
  if (!Number.isSafeInteger(pid) || pid <= 0) return undefined;
  try {
    const text = await readFile(`/proc/${String(pid)}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[startTimeIndex];
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

/** Pids of the processes that have `text` in one of their arguments. */
export async function findProcessesByArgument(text: string): Promise<readonly number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    try {
      const commandLine = await readFile(`/proc/${name}/cmdline`, "utf8");
      if (commandLine.includes(text)) found.push(pid);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "ENOENT" && code !== "ESRCH" && code !== "EACCES") throw error;
    }
  }
  return found;
}
