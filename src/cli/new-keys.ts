/** Keys that a command makes: what the user must keep, and where it goes. */
import type { RandomSource } from "#base/random.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import {
  createKeyFileSecret,
  createRecoveryKey,
  type KeySecret,
  toKeyFileSecret,
  toRecoverySecret,
} from "#vault/key-secret.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { toSecretPath } from "#cli/open-vault.ts";

/** A key file for a slot: the one at `path`, or a new one where none is there. */
export async function ensureKeyFile(
  path: string,
  environment: Pick<CliEnvironment, "secrets" | "workingFolder"> & {
    readonly random: RandomSource;
  },
): Promise<{ readonly secret: KeySecret; readonly created: boolean }> {
  const place = toSecretPath(path, environment);
  const fresh = createKeyFileSecret(environment.random);
  try {
    await environment.secrets.create("key file", place, fresh.text);
    return { secret: fresh.secret, created: true };
  } catch (error) {
    if (!isKluisError(error, "ArgumentInvalid")) throw error;
    return { secret: await readExisting(place, environment, error), created: false };
  }
}

/** The file that is in the way; where there is none, what made the creation fail counts. */
async function readExisting(
  place: string,
  environment: Pick<CliEnvironment, "secrets">,
  reason: KluisError,
): Promise<KeySecret> {
  if (!reason.message.endsWith("it exists")) throw reason;
  return toKeyFileSecret(await environment.secrets.read("key file", place));
}

/** What a recovery kit says beside the key. */
export interface KitPlace {
  /** The store, as messages name it. */
  readonly place: string;
  /** 32 hex digits, where the vault has been named already. */
  readonly vaultId?: string;
}

/** A recovery key and how it is shown to the user. */
interface MadeKey {
  readonly secret: KeySecret;
  readonly printed: string;
}

/**
 * A new recovery key; `file` gets the kit before any vault gets the key, so that it cannot be lost.
 * The key is the file's first line.
 */
export async function makeRecoveryKey(
  file: string | undefined,
  environment: Pick<CliEnvironment, "secrets" | "workingFolder" | "random">,
  kit: KitPlace,
): Promise<MadeKey> {
  const made = createRecoveryKey(environment.random);
  if (file === undefined) return made;
  const path = toSecretPath(file, environment);
  await environment.secrets.create("recovery key file", path, kitText(made.printed, kit));
  return made;
}

/**
 * {@link makeRecoveryKey} for a place that holds no vault. Where the file holds a kit for this very
 * place, a creation did not come to its end: its key is used, and the kit gets the vault's new id.
 */
export async function makeFirstRecoveryKey(
  file: string | undefined,
  environment: Pick<CliEnvironment, "secrets" | "workingFolder" | "random">,
  kit: KitPlace,
): Promise<MadeKey> {
  try {
    return await makeRecoveryKey(file, environment, kit);
  } catch (error) {
    if (file === undefined || !isKluisError(error, "ArgumentInvalid")) throw error;
    if (!error.message.endsWith("it exists")) throw error;
    const { secrets } = environment;
    const path = toSecretPath(file, environment);
    const lines = new TextDecoder()
      .decode(await secrets.read("recovery key file", path))
      .split("\n");
    const [printed = ""] = lines;
    if (!lines.includes(placeLine(kit.place)) || !lines.includes(keyLine(printed))) throw error;
    const secret = toRecoverySecret(printed);
    await secrets.replace("recovery key file", path, kitText(printed, kit));
    return { secret, printed };
  }
}

function kitText(printed: string, kit: KitPlace): Uint8Array {
  const lines = [printed, "", ...recoveryKitLines(printed, kit)];
  return new TextEncoder().encode(lines.map((line) => `${line}\n`).join(""));
}

function keyLine(printed: string): string {
  return `    Recovery key  ${printed}`;
}

function placeLine(place: string): string {
  return `    Store         ${place}`;
}

/** The recovery kit, shown once: the key, what it is for, and how to prove and use it. */
export function recoveryKitLines(printed: string, kit: KitPlace): readonly string[] {
  const { place, vaultId } = kit;
  return [
    "Recovery kit",
    "",
    keyLine(printed),
    placeLine(place),
    ...(vaultId === undefined ? [] : [`    Vault         ${vaultId}`]),
    "",
    "Print it and keep it away from this machine. With the key and the store everything can be restored;",
    "without it and without any other key nothing can. Anybody who has both can read everything.",
    "Prove it now, from the paper:",
    "",
    `    kluis rescue check --store ${quoted(place)} --recovery-key-file -`,
    "",
    "and restore with `kluis rescue list` and `kluis rescue restore` in the same way.",
  ];
}

/** For a shell. */
function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
