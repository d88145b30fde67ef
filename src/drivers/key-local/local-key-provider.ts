/** A key provider in a folder: RSA and AES keys with versions, disabling and soft delete. */
import {
  constants,
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  privateDecrypt,
  publicEncrypt,
} from "node:crypto";

import { assert } from "#base/assert.ts";
import { concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { generateRsaKey, type RandomSource } from "#base/random.ts";
import type {
  ManagedKeys,
  ProviderKeyInfo,
  ProviderKeyType,
  WrappedKey,
} from "#ports/key-provider.ts";
import type { LocalKeyMaterial } from "./key-file.ts";
import {
  denied,
  isDeleted,
  listNames,
  listVersions,
  localVersionsMax,
  markVersion,
  moveKey,
  readVersion,
  writeVersion,
} from "./key-folder.ts";
import { type LocalKeyScheme, parseLocalKeyName } from "./local-key-name.ts";

/** Bits of an RSA key: what Azure takes for 128 bits of security. */
export const rsaBits = 3072;

const wrappedKeyBytes = 32;
const aesWrap = "id-aes256-wrap";
/** The initial value of RFC 3394. */
const aesWrapIv = Buffer.alloc(8, 0xa6);

/** Opens a folder of keys; it is made with the first key. See `KeyProvider` for errors. */
export function openLocalKeys(
  folder: string,
  options: { readonly scheme: LocalKeyScheme; readonly random: RandomSource },
): ManagedKeys {
  return new LocalKeyProvider(folder, options);
}

class LocalKeyProvider implements ManagedKeys {
  readonly #folder: string;
  readonly #scheme: LocalKeyScheme;
  readonly #random: RandomSource;

  constructor(
    folder: string,
    options: { readonly scheme: LocalKeyScheme; readonly random: RandomSource },
  ) {
    this.#folder = folder;
    this.#scheme = options.scheme;
    this.#random = options.random;
  }

  keyOf(key: string): string {
    return `${this.#scheme}${parseLocalKeyName(key, this.#scheme).name}`;
  }

  async newestVersion(key: string, signal?: AbortSignal): Promise<string> {
    const { name, version } = await this.#enabledVersion(key, signal);
    return this.#nameOf(name, version);
  }

  async wrap(key: string, plain: Uint8Array, signal?: AbortSignal): Promise<WrappedKey> {
    assert(plain.byteLength === wrappedKeyBytes, "keys of 32 bytes are wrapped");
    const place = await this.#enabledVersion(key, signal);
    const material = await this.#read(place);
    const named = this.#nameOf(place.name, place.version);
    if (material.type === "AES") {
      const cipher = createCipheriv(aesWrap, material.material, aesWrapIv);
      const wrapped = concatBytes([cipher.update(plain), cipher.final()]);
      return { key: named, algorithm: "A256KW", wrapped };
    }
    const wrapped = publicEncrypt({ key: createPublicKey(privateKeyOf(material)), ...oaep }, plain);
    return { key: named, algorithm: "RSA-OAEP-256", wrapped: new Uint8Array(wrapped) };
  }

  async unwrap(wrapped: WrappedKey, signal?: AbortSignal): Promise<Uint8Array> {
    const { version } = parseLocalKeyName(wrapped.key, this.#scheme);
    if (version === undefined) throw denied("a wrapped key names the version that wrapped it");
    const material = await this.#read(await this.#enabledVersion(wrapped.key, signal));
    const isFit = (material.type === "AES") === (wrapped.algorithm === "A256KW");
    const plain = isFit ? unwrapWith(material, wrapped.wrapped) : undefined;
    if (plain?.byteLength === wrappedKeyBytes) return plain;
    throw denied(`version "${version}" does not unwrap it`);
  }

  async create(key: string, type: ProviderKeyType): Promise<string> {
    const { name } = parseLocalKeyName(key, this.#scheme);
    const isTaken = (await listVersions(this.#folder, name)) !== undefined;
    if (isTaken) throw refused(name, "it exists");
    if (await isDeleted(this.#folder, name)) {
      throw refused(name, "a deleted key has that name; recover or purge it");
    }
    return await this.#write(name, 1, type);
  }

  async addVersion(key: string): Promise<string> {
    const { name } = parseLocalKeyName(key, this.#scheme);
    const newest = (await listVersions(this.#folder, name))?.at(-1);
    if (newest === undefined) throw denied(`there is no key "${name}"`);
    const { type } = await this.#read({ name, version: newest.version });
    return await this.#write(name, Number.parseInt(newest.version.slice(0, 8), 16) + 1, type);
  }

  async setEnabled(key: string, isEnabled: boolean): Promise<void> {
    const { name, version } = parseLocalKeyName(key, this.#scheme);
    const versions = (await listVersions(this.#folder, name)) ?? [];
    const found =
      version === undefined ? versions.at(-1) : versions.find((one) => one.version === version);
    if (found === undefined) throw denied(`there is no such version of key "${name}"`);
    await markVersion(this.#folder, { name, version: found.version }, isEnabled);
  }

  async move(key: string, what: "delete" | "recover" | "purge"): Promise<void> {
    await moveKey(this.#folder, parseLocalKeyName(key, this.#scheme).name, what);
  }

  async list(): Promise<readonly ProviderKeyInfo[]> {
    const { names, deleted } = await listNames(this.#folder);
    const infos: ProviderKeyInfo[] = [];
    for (const name of names) {
      const versions = await listVersions(this.#folder, name);
      if (versions === undefined) continue;
      infos.push({ key: `${this.#scheme}${name}`, isDeleted: false, versions });
    }
    const gone = deleted.map((name) => {
      return { key: `${this.#scheme}${name}`, isDeleted: true, versions: [] };
    });
    return [...infos, ...gone];
  }

  /** The version that is named, or the newest enabled one. */
  async #enabledVersion(
    key: string,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly name: string; readonly version: string }> {
    signal?.throwIfAborted();
    const { name, version } = parseLocalKeyName(key, this.#scheme);
    const versions = await listVersions(this.#folder, name);
    if (versions === undefined) {
      const isKept = await isDeleted(this.#folder, name);
      throw denied(isKept ? `"${name}" was deleted` : `there is no key "${name}"`);
    }
    const found = versions.findLast((one) =>
      version === undefined ? one.isEnabled : one.version === version,
    );
    if (found === undefined) throw denied(`"${name}" has no such enabled version`);
    if (!found.isEnabled) throw denied(`version "${found.version}" of "${name}" is disabled`);
    return { name, version: found.version };
  }

  async #read(place: {
    readonly name: string;
    readonly version: string;
  }): Promise<LocalKeyMaterial> {
    const { name, version } = place;
    try {
      const material = await readVersion(this.#folder, name, version);
      if (material !== undefined) return material;
    } catch (error) {
      if (!isKluisError(error, "ObjectCorrupt")) throw error;
      throw denied(`the file of version "${version}" of "${name}" is damaged`);
    }
    throw denied(`"${name}" has no version "${version}"`);
  }

  async #write(name: string, count: number, type: ProviderKeyType): Promise<string> {
    if (count > localVersionsMax) throw refused(name, `it has ${localVersionsMax} versions`);
    const version = count.toString(16).padStart(8, "0") + toHex(this.#random.bytes(4));
    const material = type === "AES" ? this.#random.bytes(32) : await generateRsaKey(rsaBits);
    await writeVersion(this.#folder, { name, version }, { type, material });
    return this.#nameOf(name, version);
  }

  #nameOf(name: string, version: string): string {
    return `${this.#scheme}${name}/${version}`;
  }
}

const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" } as const;

function privateKeyOf({ material }: LocalKeyMaterial): ReturnType<typeof createPrivateKey> {
  return createPrivateKey({ key: Buffer.from(material), format: "der", type: "pkcs8" });
}

/** `undefined` where the key does not fit what was wrapped. */
function unwrapWith(material: LocalKeyMaterial, wrapped: Uint8Array): Uint8Array | undefined {
  try {
    if (material.type === "RSA") {
      // OpenSSL takes a shorter one too, where only zeros are missing (RFC 8017 §7.1.2 does not).
      if (wrapped.byteLength !== rsaBits / 8) return undefined;
      return new Uint8Array(privateDecrypt({ key: privateKeyOf(material), ...oaep }, wrapped));
    }
    const decipher = createDecipheriv(aesWrap, material.material, aesWrapIv);
    return concatBytes([decipher.update(wrapped), decipher.final()]);
  } catch {
    // OpenSSL says no more than that it did not fit.
    return undefined;
  }
}

function refused(name: string, reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot make a version of key "${name}": ${reason}`);
}
