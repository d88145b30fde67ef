/** Tokens for Azure Key Vault; docs/adr/0008-key-management.md says which ways there are and why. */
import { readFile } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import { type HttpDeps, type JsonRequest, requestJson } from "./http-json.ts";

/** Who asks, from the usual variables. Holds secrets. */
export interface AzureCredentials {
  /** AZURE_AUTHORITY_HOST; by default that of Azure's public cloud. */
  readonly authority?: string;
  readonly tenantId?: string;
  readonly clientId?: string;
  readonly clientSecret?: string;
  /** AZURE_FEDERATED_TOKEN_FILE: a token of a workload identity. */
  readonly federatedTokenFile?: string;
  /** IDENTITY_ENDPOINT and IDENTITY_HEADER, where a host gives managed identities otherwise than by IMDS. */
  readonly identityEndpoint?: string;
  readonly identityHeader?: string;
}

/** A token; a secret. */
export interface AccessToken {
  readonly token: string;
  /** On the clock's monotonic scale; some minutes before it really ends. */
  readonly untilMs: number;
}

const publicAuthority = "https://login.microsoftonline.com";
const instanceMetadata = "http://169.254.169.254/metadata/identity/oauth2/token";
/** A token is asked for anew this long before it ends. */
const marginMs = 120_000;

/** Reads the variables that Azure's own tools read. */
export function readAzureCredentials(
  variables: Readonly<Record<string, string | undefined>>,
): AzureCredentials {
  const names = {
    authority: "AZURE_AUTHORITY_HOST",
    tenantId: "AZURE_TENANT_ID",
    clientId: "AZURE_CLIENT_ID",
    clientSecret: "AZURE_CLIENT_SECRET",
    federatedTokenFile: "AZURE_FEDERATED_TOKEN_FILE",
    identityEndpoint: "IDENTITY_ENDPOINT",
    identityHeader: "IDENTITY_HEADER",
  };
  return Object.fromEntries(
    Object.entries(names).flatMap(([member, name]) => {
      const value = variables[name];
      return value === undefined || value === "" ? [] : [[member, value]];
    }),
  );
}

/**
 * Asks for a token for `resource` (`https://vault.azure.net`): as an application with its secret or a
 * federated token, else as the machine's managed identity.
 *
 * Errors: KeyDenied (after-change), KeyUnavailable (backoff).
 */
export async function requestToken(
  credentials: AzureCredentials,
  resource: string,
  deps: HttpDeps,
  signal?: AbortSignal,
): Promise<AccessToken> {
  const { tenantId, clientId, clientSecret, federatedTokenFile } = credentials;
  const isApplication =
    tenantId !== undefined &&
    clientId !== undefined &&
    (clientSecret !== undefined || federatedTokenFile !== undefined);
  const request = isApplication
    ? await applicationRequest({ ...credentials, tenantId, clientId }, resource)
    : identityRequest(credentials, resource);
  const { status, body } = await requestJson(request, deps, signal);
  const { access_token: token, expires_in: seconds } = (body ?? {}) as Readonly<
    Record<string, unknown>
  >;
  if (status !== 200 || typeof token !== "string" || token === "") {
    throw new KluisError(
      "KeyDenied",
      `Cannot get a token from "${request.server}": it refused (status ${status}${errorCode(body)})`,
    );
  }
  const lifeMs = Number(seconds) * 1000;
  const ofUseMs = Number.isFinite(lifeMs) ? Math.max(0, lifeMs - marginMs) : 0;
  return { token, untilMs: deps.clock.monotonicMs() + ofUseMs };
}

async function applicationRequest(
  credentials: AzureCredentials & { readonly tenantId: string; readonly clientId: string },
  resource: string,
): Promise<JsonRequest> {
  const { tenantId, clientId, clientSecret, federatedTokenFile } = credentials;
  const server = credentials.authority ?? publicAuthority;
  if (!URL.canParse(server) || new URL(server).protocol !== "https:") {
    throw new KluisError("ArgumentInvalid", "Cannot use AZURE_AUTHORITY_HOST: it is no https URL");
  }
  const proof: Record<string, string> =
    clientSecret !== undefined
      ? { client_secret: clientSecret }
      : {
          client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
          client_assertion: await readTokenFile(federatedTokenFile ?? ""),
        };
  const form = new URLSearchParams({
    grant_type: "client_credentials",
    client_id: clientId,
    scope: `${resource}/.default`,
    ...proof,
  });
  return {
    method: "POST",
    url: `${server.replace(/\/+$/, "")}/${encodeURIComponent(tenantId)}/oauth2/v2.0/token`,
    headers: { "content-type": "application/x-www-form-urlencoded", accept: "application/json" },
    body: form.toString(),
    server,
  };
}

function identityRequest(credentials: AzureCredentials, resource: string): JsonRequest {
  const { identityEndpoint, identityHeader, clientId } = credentials;
  const isOther = identityEndpoint !== undefined && identityHeader !== undefined;
  const query = new URLSearchParams({
    "api-version": isOther ? "2019-08-01" : "2018-02-01",
    resource,
    ...(clientId === undefined ? {} : { client_id: clientId }),
  });
  const server = isOther ? identityEndpoint : instanceMetadata;
  const proof: Record<string, string> = isOther
    ? { "x-identity-header": identityHeader }
    : { metadata: "true" };
  return { method: "GET", url: `${server}?${query.toString()}`, headers: proof, server };
}

async function readTokenFile(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (cause) {
    const reason = "the file of AZURE_FEDERATED_TOKEN_FILE cannot be read";
    throw new KluisError("KeyDenied", `Cannot get a token: ${reason}`, { cause });
  }
}

/** The short code of an OAuth error; its text may repeat what was sent. */
function errorCode(body: unknown): string {
  const code = (body as { readonly error?: unknown } | undefined)?.error;
  return typeof code === "string" && /^[\w-]{1,60}$/.test(code) ? `, ${code}` : "";
}
