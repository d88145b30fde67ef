/** Azure Key Vault, and what speaks its protocol, as a key provider: REST, api-version 7.4. */
import { assert } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { KeyProvider, ProviderAlgorithm, WrappedKey } from "#ports/key-provider.ts";
import { type AccessToken, type AzureCredentials, requestToken } from "./credentials.ts";
import { type HttpDeps, type JsonAnswer, requestJson } from "./http-json.ts";
import { formatKeyVaultName, type KeyVaultName, parseKeyVaultName } from "./key-vault-name.ts";

const apiVersion = "7.4";
const plainBytes = 32;
const wrappedBytesMin = 40;
const wrappedBytesMax = 1024;
const base64url = /^[A-Za-z0-9_-]{1,2048}$/;

/** Opens key vaults as whoever the credentials say; asks for a token when a vault first wants one. */
export function openKeyVaults(credentials: AzureCredentials, deps: HttpDeps): KeyProvider {
  return new KeyVaultProvider(credentials, deps);
}

interface KeyBundle {
  readonly name: KeyVaultName;
  readonly algorithm: ProviderAlgorithm;
}

class KeyVaultProvider implements KeyProvider {
  readonly #credentials: AzureCredentials;
  readonly #deps: HttpDeps;
  /** By resource. */
  readonly #tokens = new Map<string, AccessToken>();
  /** Resource by origin, learnt from its challenge. */
  readonly #resources = new Map<string, string>();

  constructor(credentials: AzureCredentials, deps: HttpDeps) {
    this.#credentials = credentials;
    this.#deps = deps;
  }

  keyOf(key: string): string {
    return formatKeyVaultName({ ...parseKeyVaultName(key), version: undefined });
  }

  async newestVersion(key: string, signal?: AbortSignal): Promise<string> {
    const { name } = await this.#readBundle(parseKeyVaultName(key), signal);
    return formatKeyVaultName(name);
  }

  async wrap(key: string, plain: Uint8Array, signal?: AbortSignal): Promise<WrappedKey> {
    assert(plain.byteLength === plainBytes, "keys of 32 bytes are wrapped");
    const { name, algorithm } = await this.#readBundle(parseKeyVaultName(key), signal);
    const wrapped = await this.#operate("wrapkey", { name, algorithm }, plain, signal);
    if (wrapped.byteLength < wrappedBytesMin || wrapped.byteLength > wrappedBytesMax) {
      throw broken(name, "what it wrapped has a length that no key makes");
    }
    return { key: formatKeyVaultName(name), algorithm, wrapped };
  }

  async unwrap(wrapped: WrappedKey, signal?: AbortSignal): Promise<Uint8Array> {
    const name = parseKeyVaultName(wrapped.key);
    const { algorithm } = wrapped;
    const plain = await this.#operate("unwrapkey", { name, algorithm }, wrapped.wrapped, signal);
    if (plain.byteLength !== plainBytes) throw broken(name, "it unwrapped something else");
    return plain;
  }

  /** The version that is named, else the newest. */
  async #readBundle(name: KeyVaultName, signal: AbortSignal | undefined): Promise<KeyBundle> {
    const answer = await this.#call("GET", name, {}, signal);
    const { key, attributes } = (answer.body ?? {}) as {
      readonly key?: { readonly kid?: unknown; readonly kty?: unknown };
      readonly attributes?: { readonly enabled?: unknown };
    };
    const algorithm = algorithmOf(key?.kty);
    if (typeof key?.kid !== "string" || algorithm === undefined) {
      throw broken(name, "it is no RSA or AES key");
    }
    if (attributes?.enabled === false) throw denied(name, "it is disabled");
    const found = parseKeyVaultName(key.kid);
    assertSameKey(name, found);
    return { name: found, algorithm };
  }

  async #operate(
    operation: "wrapkey" | "unwrapkey",
    bundle: KeyBundle,
    value: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    const { name, algorithm } = bundle;
    if (name.version === undefined) throw denied(name, "its version is not named");
    const body = JSON.stringify({
      alg: algorithm,
      value: Buffer.from(value).toString("base64url"),
    });
    const answer = await this.#call("POST", name, { operation, body }, signal);
    const { kid, value: result } = (answer.body ?? {}) as Readonly<Record<string, unknown>>;
    if (typeof kid !== "string" || typeof result !== "string" || !base64url.test(result)) {
      throw broken(name, "its answer is out of form");
    }
    const answered = parseKeyVaultName(kid);
    assertSameKey(name, answered);
    if (answered.version !== name.version) throw broken(name, "another version answered");
    return new Uint8Array(Buffer.from(result, "base64url"));
  }

  /** One request, with a token where the vault asks for one. */
  async #call(
    method: "GET" | "POST",
    name: KeyVaultName,
    what: { readonly operation?: string; readonly body?: string },
    signal: AbortSignal | undefined,
  ): Promise<JsonAnswer> {
    const { origin, version } = name;
    const parts = ["keys", name.name, version, what.operation].filter((part) => part !== undefined);
    const url = `${origin}/${parts.join("/")}?api-version=${apiVersion}`;
    const send = async (isAsking: boolean): Promise<JsonAnswer> => {
      const token = isAsking ? undefined : await this.#tokenFor(origin, signal);
      const headers = {
        accept: "application/json",
        "content-type": "application/json",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      };
      // Without a token nothing is told: the answer will be the challenge.
      const body = isAsking ? { body: "" } : what.body === undefined ? {} : { body: what.body };
      const content = method === "GET" ? {} : body;
      const request = { method, url, headers, server: origin, ...content };
      return await requestJson(request, this.#deps, signal);
    };
    if (!this.#resources.has(origin)) this.#noteChallenge(name, await send(true));
    let answer = await send(false);
    if (answer.status === 401) {
      // The token ended early, or the vault moved to another resource: once more from the start.
      this.#tokens.clear();
      this.#resources.delete(origin);
      this.#noteChallenge(name, answer);
      answer = await send(false);
    }
    if (answer.status === 200) return answer;
    throw refusal(name, answer);
  }

  #noteChallenge(name: KeyVaultName, { status, challenge }: JsonAnswer): void {
    const resource = status === 401 ? resourceOf(challenge ?? "") : undefined;
    if (resource === undefined) throw broken(name, "it does not say for what it wants a token");
    const [host, wanted] = [new URL(name.origin).hostname, new URL(resource).hostname];
    if (host !== wanted && !host.endsWith(`.${wanted}`)) {
      throw denied(name, `it asks for a token of another service ("${wanted}")`);
    }
    this.#resources.set(name.origin, resource);
  }

  async #tokenFor(origin: string, signal: AbortSignal | undefined): Promise<string> {
    const resource = this.#resources.get(origin);
    assert(resource !== undefined, "the challenge comes first");
    const known = this.#tokens.get(resource);
    if (known !== undefined && known.untilMs > this.#deps.clock.monotonicMs()) return known.token;
    const fresh = await requestToken(this.#credentials, resource, this.#deps, signal);
    this.#tokens.set(resource, fresh);
    return fresh.token;
  }
}

/** The resource of a challenge: `resource="…"`, or `scope="…/.default"`. */
export function resourceOf(challenge: string): string | undefined {
  if (!/^bearer\s/i.test(challenge) || challenge.length > 2048) return undefined;
  const [, resource] = /\bresource="([^"]+)"/i.exec(challenge) ?? [];
  const [, scope] = /\bscope="([^" ]+)\/\.default"/i.exec(challenge) ?? [];
  const found = (resource ?? scope)?.replace(/\/+$/, "");
  if (found === undefined || !URL.canParse(found)) return undefined;
  return new URL(found).protocol === "https:" ? found : undefined;
}

function algorithmOf(type: unknown): ProviderAlgorithm | undefined {
  if (type === "RSA" || type === "RSA-HSM") return "RSA-OAEP-256";
  if (type === "oct-HSM" || type === "oct") return "A256KW";
  return undefined;
}

function assertSameKey(asked: KeyVaultName, answered: KeyVaultName): void {
  const isSame =
    asked.origin === answered.origin && asked.name.toLowerCase() === answered.name.toLowerCase();
  if (!isSame) throw broken(asked, "it answered for another key");
}

function refusal(name: KeyVaultName, { status, body }: JsonAnswer): KluisError {
  const { code, innererror } =
    (body as { readonly error?: { code?: unknown; innererror?: { code?: unknown } } } | undefined)
      ?.error ?? {};
  const codes = [code, innererror?.code].filter(
    (text): text is string => typeof text === "string" && /^\w{1,60}$/.test(text),
  );
  const also = codes.length === 0 ? "" : `, ${codes.join(": ")}`;
  return denied(name, `it refused (status ${status}${also})`);
}

function denied(name: KeyVaultName, reason: string): KluisError {
  return new KluisError("KeyDenied", `Cannot use key "${formatKeyVaultName(name)}": ${reason}`);
}

function broken(name: KeyVaultName, reason: string): KluisError {
  return new KluisError(
    "KeyUnavailable",
    `Cannot use key "${formatKeyVaultName(name)}": ${reason}`,
  );
}
