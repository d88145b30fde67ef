/** Names of keys of the local provider: `local:NAME` and `local:NAME/VERSION`. */
import { KluisError } from "#base/kluis-error.ts";

/** A key, and one of its versions where it is named. */
export interface LocalKeyName {
  /** 1 to 64 letters, digits and hyphens, as in Azure Key Vault. */
  readonly name: string;
  /** 16 hex digits; later versions are greater. */
  readonly version: string | undefined;
}

/** What comes before the name: keys of their owner's, and keys that the service holds. */
export type LocalKeyScheme = "local:" | "platform:";

const namePattern = /^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/;

/** The form of a version. */
export const localVersionPattern = /^[0-9a-f]{16}$/;

/** Parses a key's name. ArgumentInvalid (after-change). */
export function parseLocalKeyName(text: string, scheme: LocalKeyScheme): LocalKeyName {
  const parts = text.startsWith(scheme) ? text.slice(scheme.length).split("/") : [];
  const [name = "", version] = parts;
  const isVersion = version === undefined || localVersionPattern.test(version);
  if (namePattern.test(name) && isVersion && parts.length <= 2) return { name, version };
  const quoted = JSON.stringify(text.slice(0, 120));
  const form = `${scheme}NAME, with letters, digits and hyphens`;
  throw new KluisError("ArgumentInvalid", `Cannot use ${quoted} as a key: it is not ${form}`);
}
