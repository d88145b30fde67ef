/**
 * Who holds keys that wrap the keys of vaults: a key vault, a folder of key files, later the service.
 *
 * A key has a name and versions; the newest wraps, every enabled one unwraps. Keys never leave their
 * provider. Every driver passes `src/testing/suites/key-provider-suite.ts`.
 */

/** How a provider wraps: RSAES-OAEP with SHA-256, or AES key wrap with 256 bits (RFC 3394). */
export type ProviderAlgorithm = "RSA-OAEP-256" | "A256KW";

/** A key that was wrapped. */
export interface WrappedKey {
  /** The provider's key with the version that wrapped; printable ASCII, at most 1,024 characters. */
  readonly key: string;
  readonly algorithm: ProviderAlgorithm;
  /** 40 to 1,024 bytes. */
  readonly wrapped: Uint8Array;
}

/**
 * The provider port.
 *
 * `key` is what a user names, as the provider writes it: `local:NAME`, `https://…/keys/NAME`, with
 * or without `/VERSION`; without one the newest version is meant.
 *
 * Methods may be called concurrently. Errors are `KluisError`: KeyUnavailable (backoff) where the
 * provider does not answer, KeyDenied (after-change) where it refuses: no such key or version,
 * disabled, deleted, no permission; ArgumentInvalid (after-change) where `key` is out of form.
 */
export interface KeyProvider {
  /** The version that would wrap now, as `WrappedKey.key` would name it. */
  newestVersion(key: string, signal?: AbortSignal): Promise<string>;
  /** Wraps 32 bytes. */
  wrap(key: string, plain: Uint8Array, signal?: AbortSignal): Promise<WrappedKey>;
  /** The 32 bytes that {@link wrap} was given; the caller owns them. KeyDenied where they do not unwrap. */
  unwrap(wrapped: WrappedKey, signal?: AbortSignal): Promise<Uint8Array>;
  /** The name of `key` without its version, in one spelling: what two names of one key share. */
  keyOf(key: string): string;
}

/** How a key of a provider wraps. */
export type ProviderKeyType = "RSA" | "AES";

/** A key as it is listed. */
export interface ProviderKeyInfo {
  readonly key: string;
  readonly isDeleted: boolean;
  /** Oldest first; empty for a deleted key. */
  readonly versions: readonly { readonly version: string; readonly isEnabled: boolean }[];
}

/** A provider whose keys are managed through Kluis; those of a key vault are managed there. */
export interface ManagedKeys extends KeyProvider {
  /** Makes a key and returns its name with the version; ArgumentInvalid (after-change) where the name is taken. */
  create(key: string, type: ProviderKeyType): Promise<string>;
  /** Makes a new version of a key and returns its name. */
  addVersion(key: string): Promise<string>;
  /** Enables or disables the version that is named, else the newest. */
  setEnabled(key: string, isEnabled: boolean): Promise<void>;
  /** Deletes a key so that it can be recovered, recovers it, or removes a deleted one for good. */
  move(key: string, what: "delete" | "recover" | "purge"): Promise<void>;
  list(): Promise<readonly ProviderKeyInfo[]>;
}
