/** Names of unfinished files, which say who writes them: so that those of the dead can be swept. */
import { createHash } from "node:crypto";
import { readlink } from "node:fs/promises";

import { toHex } from "#base/bytes.ts";
import type { RandomSource } from "#base/random.ts";
import { isProcessAlive, readProcessIdentity } from "#drivers/process/process-identity.ts";

/** A process that writes unfinished files: pid and start time are unique in a scope. */
export interface PartWriter {
  readonly pid: number;
  /** Clock ticks from boot to the start of the process. */
  readonly startTicks: number;
  /** Stands for one boot of one machine and one pid namespace: 16 hex digits. */
  readonly scope: string;
}

/** This process. */
export type PartSelf = PartWriter & { readonly bootId: string };

/** Ages from which the file of a writer is taken for abandoned. */
export interface PartAges {
  /** Where the writer has ended. */
  readonly deadMs: number;
  /** Where it cannot be looked up: another machine, boot or container. */
  readonly foreignMs: number;
}

/** Age of a file whose writer cannot be looked up. */
export const foreignPartAgeMs = 7 * 24 * 60 * 60 * 1000;

const namePattern = /^(\d{1,10})-(\d{1,16})-([0-9a-f]{16})-[0-9a-f]{24}$/;

/** This process; `undefined` where /proc is not mounted. */
export async function readPartWriter(): Promise<PartSelf | undefined> {
  const identity = await readProcessIdentity(process.pid);
  if (identity === undefined) return undefined;
  const namespace = await readlink("/proc/self/ns/pid");
  const digest = createHash("sha256").update(`${identity.bootId} ${namespace}`).digest();
  return { ...identity, scope: toHex(digest.subarray(0, 8)) };
}

/** A name that no other file has or will have; at most 69 characters. */
export function createPartName(writer: PartWriter, random: RandomSource): string {
  return `${writer.pid}-${writer.startTicks}-${writer.scope}-${toHex(random.bytes(12))}`;
}

/** The writer that a name says; `undefined` for a file that was not named so. */
export function parsePartName(name: string): PartWriter | undefined {
  const [, pid, startTicks, scope] = namePattern.exec(name) ?? [];
  if (scope === undefined) return undefined;
  return { pid: Number(pid), startTicks: Number(startTicks), scope };
}

/** Whether nobody can be writing a file of that age any more. */
export async function isAbandoned(
  file: { readonly writer: PartWriter; readonly ageMs: number },
  self: PartSelf,
  ages: PartAges,
): Promise<boolean> {
  const { writer, ageMs } = file;
  if (writer.scope !== self.scope) return ageMs > ages.foreignMs;
  return ageMs > ages.deadMs && !(await isProcessAlive({ ...writer, bootId: self.bootId }));
}
