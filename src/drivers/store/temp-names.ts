/** Names of temporary files, which say who writes them; internal to this folder. */
import { createHash } from "node:crypto";
import { readlink } from "node:fs/promises";

import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { readProcessIdentity } from "#drivers/process/process-identity.ts";

/** A process that writes temporary files: pid and start time are unique in a scope. */
export interface TempWriter {
  readonly pid: number;
  /** Clock ticks from boot to the start of the process. */
  readonly startTicks: number;
  /** Stands for one boot of one machine and one pid namespace: 16 hex digits. */
  readonly scope: string;
}

const namePattern = /^(\d{1,10})-(\d{1,16})-([0-9a-f]{16})-[0-9a-f]{24}$/;

/** This process; StoreUnavailable (backoff) where /proc is not mounted. */
export async function readTempWriter(): Promise<TempWriter & { readonly bootId: string }> {
  const identity = await readProcessIdentity(process.pid);
  if (identity === undefined) {
    throw new KluisError("StoreUnavailable", "Cannot write to the store: /proc is not mounted");
  }
  const namespace = await readlink("/proc/self/ns/pid");
  const digest = createHash("sha256").update(`${identity.bootId} ${namespace}`).digest();
  return { ...identity, scope: toHex(digest.subarray(0, 8)) };
}

/** A name that no other file has or will have. */
export function createTempName(writer: TempWriter, random: RandomSource): string {
  return `${writer.pid}-${writer.startTicks}-${writer.scope}-${toHex(random.bytes(12))}`;
}

/** The writer that a name says; `undefined` for a file that no store has made. */
export function parseTempName(name: string): TempWriter | undefined {
  const [, pid, startTicks, scope] = namePattern.exec(name) ?? [];
  if (scope === undefined) return undefined;
  return { pid: Number(pid), startTicks: Number(startTicks), scope };
}
