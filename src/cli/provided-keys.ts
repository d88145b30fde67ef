/** Keys of key providers, as a command line names them. */
import { join, resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { ProvidedSecret } from "#vault/key-secret.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment, KeyFolders } from "#cli/environment.ts";

/** The key that this host holds for its vaults. */
export const platformKeyName = "platform:default";

/** Where the folders of keys are. */
export function keyFoldersOf(
  input: CommandInput,
  environment: Pick<CliEnvironment, "workingFolder" | "stateFolder">,
): KeyFolders {
  const { workingFolder, stateFolder } = environment;
  const folder = resolve(workingFolder, input.text("keyFolder") ?? join(stateFolder, "keys"));
  return { local: join(folder, "local"), platform: join(folder, "platform") };
}

/** A customer key by its name. ArgumentInvalid (after-change) where it can be none. */
export async function openCustomerKey(
  key: string,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<ProvidedSecret> {
  if (key.startsWith("platform:")) {
    const reason = "that is the host's own; say --platform-key";
    throw new KluisError("ArgumentInvalid", `Cannot use "${key}" as a customer key: ${reason}`);
  }
  const provider = await environment.drivers.openKeyProvider(key, keyFoldersOf(input, environment));
  // Out of form is told before anything else is done.
  provider.keyOf(key);
  return { type: "customer-key", key, provider };
}

/** The platform key; with `create` it is made where this host has none. */
export async function openPlatformKey(
  input: CommandInput,
  environment: CliEnvironment,
  options: { readonly create: boolean } = { create: false },
): Promise<ProvidedSecret> {
  const folders = keyFoldersOf(input, environment);
  const provider = await environment.drivers.openManagedKeys(platformKeyName, folders);
  const isThere = (await provider.list()).some(({ key }) => key === platformKeyName);
  if (!isThere && options.create) await provider.create(platformKeyName, "AES");
  return { type: "platform-key", key: platformKeyName, provider };
}

/** What a command line names for re-wrapping: `platform`, or a customer key. */
export async function openKeyToRewrap(
  name: string,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<ProvidedSecret> {
  if (name === "platform") return await openPlatformKey(input, environment);
  return await openCustomerKey(name, input, environment);
}
