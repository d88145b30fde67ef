/** Names of keys in Azure Key Vault: `https://HOST/keys/NAME` and `https://HOST/keys/NAME/VERSION`. */
import { KluisError } from "#base/kluis-error.ts";

/** A key, and one of its versions where it is named. */
export interface KeyVaultName {
  /** `https://HOST`, with a port where there is one. */
  readonly origin: string;
  readonly name: string;
  readonly version: string | undefined;
}

const pathPattern = /^\/keys\/([A-Za-z0-9-]{1,127})(?:\/([A-Za-z0-9]{1,64}))?\/?$/;

/** Parses a key identifier. ArgumentInvalid (after-change). */
export function parseKeyVaultName(text: string): KeyVaultName {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "https:") throw invalid(text, "it is no https URL");
  if (url.username !== "" || url.password !== "") throw invalid("https://…", "it holds a password");
  const [, name, version] = pathPattern.exec(url.pathname) ?? [];
  if (name === undefined || url.search !== "" || url.hash !== "") {
    throw invalid(text, "it is not https://HOST/keys/NAME or https://HOST/keys/NAME/VERSION");
  }
  return { origin: url.origin, name, version };
}

/** The identifier, in the one spelling that slots hold. */
export function formatKeyVaultName({ origin, name, version }: KeyVaultName): string {
  return `${origin}/keys/${name}${version === undefined ? "" : `/${version}`}`;
}

function invalid(text: string, reason: string): KluisError {
  const quoted = JSON.stringify(text.slice(0, 200));
  return new KluisError("ArgumentInvalid", `Cannot use ${quoted} as a key: ${reason}`);
}
