/** How a user names a protected item: by the image's path or URI, or by the id of the item. */
import { resolve } from "node:path";

import { KluisError } from "#base/kluis-error.ts";
import type { Vault } from "#vault/vault.ts";
import type { CliEnvironment } from "#cli/environment.ts";

/** The longest id; manifests hold no longer text. */
const itemIdCharsMax = 4000;

/** The id of an image that is backed up: as given, else its absolute path or its URI. */
export function toImageItemId(
  image: { readonly place: string; readonly isUri: boolean },
  given: string | undefined,
): string {
  const id = given ?? image.place;
  if (id === "" || id.length > itemIdCharsMax || !id.isWellFormed()) {
    throw new KluisError(
      "ArgumentInvalid",
      `Cannot use the item id: it must be text of 1 to ${itemIdCharsMax} characters`,
    );
  }
  return id;
}

/** The id of an item that the vault has: the text itself, else the absolute path it names. */
export async function findItemId(
  vault: Vault,
  text: string,
  environment: CliEnvironment,
): Promise<string> {
  const asGiven = await vault.listPoints(text, environment.signal);
  if (asGiven.length > 0) return text;
  const path = resolve(environment.workingFolder, text);
  const asPath = await vault.listPoints(path, environment.signal);
  return asPath.length > 0 ? path : text;
}

/** An image as the drivers take it: a URI as it is, a path made absolute. */
export function toPlace(text: string, isUri: boolean, environment: CliEnvironment): string {
  return isUri ? text : resolve(environment.workingFolder, text);
}
