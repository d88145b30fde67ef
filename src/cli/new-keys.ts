/** Keys that a command makes: what the user must keep, and where it goes. */
import type { RandomSource } from "#base/random.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import {
  createKeyFileSecret,
  createRecoveryKey,
  type KeySecret,
  toKeyFileSecret,
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

/** A new recovery key; `file` gets it before any vault does, so that it cannot be lost. */
export async function makeRecoveryKey(
  file: string | undefined,
  environment: Pick<CliEnvironment, "secrets" | "workingFolder" | "random">,
): Promise<{ readonly secret: KeySecret; readonly printed: string }> {
  const made = createRecoveryKey(environment.random);
  if (file !== undefined) {
    const text = new TextEncoder().encode(`${made.printed}\n`);
    await environment.secrets.create("recovery key file", toSecretPath(file, environment), text);
  }
  return made;
}

/** How a new recovery key is shown once. */
export function recoveryKeyLines(printed: string): readonly string[] {
  return [
    "Recovery key, shown this once:",
    "",
    `    ${printed}`,
    "",
    "Print it and keep it away from this machine. With it and the store everything can be restored;",
    "without it and without any other key nothing can.",
  ];
}
