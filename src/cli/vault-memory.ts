/** Compares stores with what this host remembers of them, and remembers what it sees. */
import { createHash } from "node:crypto";
import { join } from "node:path";

import { toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { lookBackAt, type RememberedVault, type SetBackObject } from "#vault/look-back.ts";
import type { CliEnvironment, HostMemories } from "#cli/environment.ts";
import { printWarnings } from "#cli/output.ts";

type MemoryEnvironment = Pick<CliEnvironment, "drivers" | "stateFolder" | "signal" | "terminal">;

/**
 * What this host has seen in the store, and what is gone or another now. Where nothing is, the host
 * remembers the store as it is. A memory that cannot be read or written is a warning: nothing that a
 * vault needs is in it. Errors: those of the store.
 */
export async function checkMemory(
  vault: RememberedVault,
  environment: MemoryEnvironment,
): Promise<readonly SetBackObject[]> {
  const { memories, subject } = await openMemories(vault, environment);
  const files = (await warnOnFailure(memories.read(subject), environment)) ?? [];
  const { signal } = environment;
  const contents = files.map(({ content }) => content);
  const { setBack, content, unreadable } = await lookBackAt({ ...vault, signal }, contents);
  printWarnings(
    environment,
    unreadable.map(({ message }) => message),
  );
  const isTold = setBack.length > 0 || vault.keys === undefined || content === undefined;
  if (isTold) return setBack;
  const old = files.map(({ name }) => name);
  await warnOnFailure(memories.replace(subject, old, content), environment);
  return setBack;
}

/** Takes the store as it is for right; gives what was gone. Errors: ArgumentInvalid; those of the store. */
export async function acceptStore(
  vault: RememberedVault,
  environment: MemoryEnvironment,
): Promise<readonly SetBackObject[]> {
  const { memories, subject } = await openMemories(vault, environment);
  const files = await memories.read(subject);
  const { signal } = environment;
  const contents = files.map(({ content }) => content);
  const { setBack, content } = await lookBackAt({ ...vault, signal }, contents);
  const old = files.map(({ name }) => name);
  if (content !== undefined) await memories.replace(subject, old, content);
  return setBack;
}

const recommendation =
  "find out who set it back, and heal it from a copy; if it was meant, run `kluis vault accept`";

/** The error for commands that must not go on. */
export function setBackError(store: ObjectStore, setBack: readonly SetBackObject[]): KluisError {
  return new KluisError("StoreSetBack", `Cannot go on: ${describe(store, setBack)}`);
}

/** What commands that go on tell. */
export function setBackWarnings(
  store: ObjectStore,
  setBack: readonly SetBackObject[],
): readonly string[] {
  return setBack.length === 0 ? [] : [`${describe(store, setBack)}; ${recommendation}`];
}

function describe(store: ObjectStore, setBack: readonly SetBackObject[]): string {
  const [first] = setBack;
  const more = setBack.length > 1 ? `, and ${setBack.length - 1} more` : "";
  const what = `${first?.name ?? ""}: ${first?.reason ?? ""}${more}`;
  return `the store "${store.location}" is behind what this host has seen (${what})`;
}

/** One memory for each place: a secondary may be behind its primary. */
async function openMemories(
  { store, vaultId }: RememberedVault,
  { drivers, stateFolder }: MemoryEnvironment,
): Promise<{ readonly memories: HostMemories; readonly subject: string }> {
  const place = createHash("sha256").update(store.location).digest("hex").slice(0, 32);
  const memories = await drivers.openMemory(join(stateFolder, "vaults"));
  return { memories, subject: `${toHex(vaultId)}-${place}` };
}

/** Makes an error of `work` a warning; `undefined` then. Errors: Cancelled. */
export async function warnOnFailure<T>(
  work: Promise<T>,
  environment: Pick<CliEnvironment, "terminal" | "signal">,
): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    environment.signal.throwIfAborted();
    if (!isKluisError(error)) throw error;
    printWarnings(environment, [error.message]);
    return undefined;
  }
}
