/** Opens the vault that a command line names, with the key that it names. */
import { join, resolve } from "node:path";

import { toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { valueOf } from "#base/settled.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import {
  type KeySecret,
  toKeyFileSecret,
  toPassphraseSecret,
  toRecoverySecret,
} from "#vault/key-secret.ts";
import { type OpenedVault, openVaultFiles } from "#vault/vault-files.ts";
import { Vault } from "#vault/vault.ts";
import type { RememberedVault, SetBackObject } from "#vault/look-back.ts";
import type { CommandInput } from "#cli/command.ts";
import { openCustomerKey, openPlatformKey } from "#cli/provided-keys.ts";
import type { CliEnvironment, SecretKind } from "#cli/environment.ts";
import { printWarnings } from "#cli/output.ts";
import { checkMemory, setBackError, setBackWarnings, warnOnFailure } from "#cli/vault-memory.ts";

/** Threads at most; the vault has the same bound. */
const workersMax = 16;

/** An open vault with what belongs to it. */
export interface VaultSession extends AsyncDisposable {
  readonly store: ObjectStore;
  readonly files: OpenedVault;
  readonly vault: Vault;
  /** Objects that this host has seen in the store, and that are gone or others now. */
  readonly setBack: readonly SetBackObject[];
}

/** A store whose key was accepted. */
export type UnlockedStore = Omit<VaultSession, "vault" | keyof AsyncDisposable>;

/** What a command does with a vault. */
export type Intent = "rescue" | "read" | "add" | "remove";

/**
 * Opens store and key ring, not the index; `given` is the secret where it was read already.
 *
 * A store that is behind what this host has seen in it is a warning, and an error for who means to
 * remove or to change keys; a rescue remembers nothing. Errors: Store*, Key*, ArgumentInvalid.
 */
export async function unlockStore(
  input: CommandInput,
  environment: CliEnvironment,
  how: { readonly intent: Intent; readonly given?: KeySecret },
): Promise<UnlockedStore> {
  const place = placeOf(input);
  const unlocked = await unlockPlace(input, environment, { place, given: how.given });
  return { ...unlocked, setBack: await findSetBack(unlocked, environment, how.intent) };
}

/** The store of a command line. */
function placeOf(input: CommandInput): string {
  return input.requiredText(input.text("from") === "secondary" ? "secondary" : "store");
}

/** What this host has seen in the store and is gone; see {@link unlockStore}. */
async function findSetBack(
  unlocked: UnlockedStore,
  environment: CliEnvironment,
  intent: Intent,
): Promise<readonly SetBackObject[]> {
  if (intent === "rescue") return [];
  const checking = checkMemory(rememberedOf(unlocked), environment);
  // Only what may remove something must not go on without knowing.
  const setBack =
    intent === "remove" ? await checking : ((await warnOnFailure(checking, environment)) ?? []);
  if (setBack.length > 0 && intent === "remove") throw setBackError(unlocked.store, setBack);
  printWarnings(environment, setBackWarnings(unlocked.store, setBack));
  return setBack;
}

/** Remembers what a command has put, once it is done; where that fails it is a warning. */
export async function rememberStore(
  unlocked: Pick<UnlockedStore, "store" | "files">,
  environment: CliEnvironment,
): Promise<void> {
  await warnOnFailure(checkMemory(rememberedOf(unlocked), environment), environment);
}

function rememberedOf({ store, files }: Pick<UnlockedStore, "store" | "files">): RememberedVault {
  return { store, vaultId: files.header.vaultId, keys: files.keys };
}

/** {@link unlockStore} of another place than the command line's `--store`. */
export async function unlockPlace(
  input: CommandInput,
  environment: CliEnvironment,
  what: { readonly place: string; readonly given?: KeySecret | undefined },
): Promise<UnlockedStore> {
  const { place } = what;
  const secret = what.given ?? (await readSecret(input, environment));
  const store = await environment.drivers.openStore(place, { create: false });
  return { store, files: await openVaultFiles(store, secret, environment.signal), setBack: [] };
}

/** How a vault is opened; a rescue uses nothing of this host. */
export interface VaultSessionOptions {
  readonly intent: Intent;
  /** What will be done to a point at once. */
  readonly startThread?: "reading" | "writing";
  /** Whether disks are left alone, so that no index is read. */
  readonly withoutIndex?: boolean;
}

/** Opens the vault of a command line. Errors: Store*, Key*, ArgumentInvalid, Object*. */
export async function openVaultSession(
  input: CommandInput,
  environment: CliEnvironment,
  options: VaultSessionOptions,
): Promise<VaultSession> {
  const workers = input.count("workers", { min: 1, max: workersMax });
  const unlocked = await unlockPlace(input, environment, { place: placeOf(input) });
  const { store, files } = unlocked;
  const { intent, withoutIndex = false } = options;
  // Both take some round trips to the store.
  const [opened, checked] = await Promise.allSettled([
    Vault.open(
      {
        store,
        keys: files.keys,
        clock: environment.clock,
        random: environment.random,
        withoutIndex,
        verify: !input.isOff("verifyBeforeCommit"),
        ...(options.startThread === undefined ? {} : { startThread: options.startThread }),
        ...(intent !== "rescue"
          ? { cacheDirectory: cacheDirectoryOf(input, environment, files) }
          : {}),
        ...(workers === undefined ? {} : { workers }),
      },
      environment.signal,
    ),
    findSetBack(unlocked, environment, intent),
  ]);
  const vault = valueOf(opened);
  if (checked.status === "rejected") await vault[Symbol.asyncDispose]();
  const setBack = valueOf(checked);
  const isWriting = intent === "add" || intent === "remove";
  const close = async (): Promise<void> => {
    await vault[Symbol.asyncDispose]();
    if (isWriting && !environment.signal.aborted) await rememberStore(unlocked, environment);
  };
  return { ...unlocked, setBack, vault, [Symbol.asyncDispose]: close };
}

/** Where this host keeps index files of a vault. */
export function cacheDirectoryOf(
  input: CommandInput,
  environment: CliEnvironment,
  { header }: OpenedVault,
): string {
  const cache = resolve(environment.workingFolder, input.text("cache") ?? environment.cacheFolder);
  return join(cache, toHex(header.vaultId));
}

/**
 * Reads the one secret that the command line names, else KLUIS_PASSPHRASE. KeyMissing,
 * ArgumentInvalid (after-change).
 */
export async function readSecret(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<KeySecret> {
  const ways: { readonly flag: string; read(): Promise<KeySecret> }[] = [];
  for (const option of secretOptions) {
    const path = input.text(option.name);
    if (path === undefined) continue;
    const read = async (): Promise<KeySecret> =>
      option.parse(await environment.secrets.read(option.kind, toSecretPath(path, environment)));
    ways.push({ flag: option.flag, read });
  }
  const customerKey = input.text("customerKey");
  if (customerKey !== undefined) {
    const read = (): Promise<KeySecret> => openCustomerKey(customerKey, input, environment);
    ways.push({ flag: "--customer-key", read });
  }
  if (input.flag("platformKey")) {
    ways.push({ flag: "--platform-key", read: () => openPlatformKey(input, environment) });
  }
  const [first, second] = ways;
  if (first !== undefined && second !== undefined) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot choose a key: ${first.flag} and ${second.flag} are both given`,
    );
  }
  if (first !== undefined) return await first.read();
  if (environment.passphrase !== undefined) return toPassphraseSecret(environment.passphrase);
  throw new KluisError("KeyMissing", "Cannot open the vault: no key was given");
}

interface SecretOption {
  readonly name: string;
  readonly flag: string;
  readonly kind: SecretKind;
  parse(bytes: Uint8Array): KeySecret;
}

const secretOptions: readonly SecretOption[] = [
  { name: "keyFile", flag: "--key-file", kind: "key file", parse: toKeyFileSecret },
  {
    name: "passphraseFile",
    flag: "--passphrase-file",
    kind: "passphrase file",
    parse: (bytes) => toPassphraseSecret(firstLine(bytes)),
  },
  {
    name: "recoveryKeyFile",
    flag: "--recovery-key-file",
    kind: "recovery key file",
    parse: (bytes) => toRecoverySecret(firstLine(bytes)),
  },
];

/** The passphrase on the first line of a file. */
export async function readPassphraseFile(
  path: string,
  environment: Pick<CliEnvironment, "secrets" | "workingFolder">,
): Promise<KeySecret> {
  const place = toSecretPath(path, environment);
  return toPassphraseSecret(firstLine(await environment.secrets.read("passphrase file", place)));
}

/** Absolute; `-` stays, it is the standard input. */
export function toSecretPath(
  path: string,
  environment: Pick<CliEnvironment, "workingFolder">,
): string {
  return path === "-" ? path : resolve(environment.workingFolder, path);
}

function firstLine(bytes: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new KluisError("ArgumentInvalid", "Cannot read the key: the file is not UTF-8 text", {
      cause,
    });
  }
  return text.split(/\r?\n/, 1)[0] ?? "";
}
