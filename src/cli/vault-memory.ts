/** Compares stores with what this host remembers of them, and remembers what it sees. */
import { createHash } from "node:crypto";
import { join } from "node:path";

import { toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { encodeVaultMemory, parseVaultMemory, type VaultMemory } from "#formats/vault-memory.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { lookBack } from "#vault/look-back.ts";
import type { BadObject } from "#vault/verify/damage.ts";
import type { CliEnvironment, HostMemories, RememberedFile } from "#cli/environment.ts";
import { printWarnings } from "#cli/output.ts";

/** A vault that a command works with. */
export interface RememberedVault {
  readonly store: ObjectStore;
  readonly vaultId: Uint8Array;
  /** Without them nothing is remembered: the parts of the inventory may be anybody's. */
  readonly keys: VaultKeys | undefined;
}

type MemoryEnvironment = Pick<
  CliEnvironment,
  "drivers" | "stateFolder" | "signal" | "terminal" | "clock"
>;

/**
 * What this host has seen in the store, and what is gone or another now. Where nothing is, the host
 * remembers the store as it is. A memory that cannot be read or written is a warning: nothing that a
 * vault needs is in it. Errors: those of the store.
 */
export async function checkMemory(
  vault: RememberedVault,
  environment: MemoryEnvironment,
): Promise<readonly BadObject[]> {
  const { memories, subject } = await openMemories(vault, environment);
  const files = await readFiles(memories, subject, environment);
  const { store, vaultId, keys } = vault;
  const place = { store, vaultId, keys, signal: environment.signal };
  const remembered = files.flatMap(({ memory }) => (memory === undefined ? [] : [memory]));
  const { setBack, memory } = await lookBack(place, remembered);
  if (setBack.length > 0 || keys === undefined) return setBack;
  const content = encodeVaultMemory(memory);
  const [only] = files;
  const isKnown = files.length === 1 && Buffer.compare(only?.content ?? content, content) === 0;
  const isNews = memory.parts.length > 0 || memory.record !== undefined;
  if (isKnown || !isNews) return setBack;
  const old = files.map(({ name }) => name);
  await warnOnFailure(memories.replace(subject, old, content), environment);
  return setBack;
}

/** Takes the store as it is for right; gives what was gone. Errors: ArgumentInvalid; those of the store. */
export async function acceptStore(
  vault: RememberedVault,
  environment: MemoryEnvironment,
): Promise<readonly BadObject[]> {
  const { memories, subject } = await openMemories(vault, environment);
  const files = await readFiles(memories, subject, environment);
  const { store, vaultId, keys } = vault;
  const remembered = files.flatMap(({ memory }) => (memory === undefined ? [] : [memory]));
  const place = { store, vaultId, keys, signal: environment.signal };
  const { setBack, memory } = await lookBack(place, remembered);
  const old = files.map(({ name }) => name);
  await memories.replace(subject, old, encodeVaultMemory(memory));
  return setBack;
}

const recommendation =
  "find out who set it back, and heal it from a copy; if it was meant, run `kluis vault accept`";

/** The error for commands that must not go on. */
export function setBackError(store: ObjectStore, setBack: readonly BadObject[]): KluisError {
  return new KluisError("StoreSetBack", `Cannot go on: ${describe(store, setBack)}`);
}

/** Tells commands that go on. */
export function warnOfSetBack(
  store: ObjectStore,
  setBack: readonly BadObject[],
  environment: Pick<CliEnvironment, "terminal">,
): void {
  if (setBack.length === 0) return;
  printWarnings(environment, [`${describe(store, setBack)}; ${recommendation}`]);
}

function describe(store: ObjectStore, setBack: readonly BadObject[]): string {
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

type ReadFile = RememberedFile & { readonly memory: VaultMemory | undefined };

/** A file that is damaged remembers nothing any more, and is replaced. */
async function readFiles(
  memories: HostMemories,
  subject: string,
  environment: MemoryEnvironment,
): Promise<readonly ReadFile[]> {
  const files = (await warnOnFailure(memories.read(subject), environment)) ?? [];
  return files.map((file) => {
    try {
      return { ...file, memory: parseVaultMemory(file.content) };
    } catch (error) {
      if (!isKluisError(error)) throw error;
      printWarnings(environment, [error.message]);
      return { ...file, memory: undefined };
    }
  });
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
