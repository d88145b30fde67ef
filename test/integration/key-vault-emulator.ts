/**
 * A key vault and its identity service, as far as Kluis talks to them, over TLS with a certificate of
 * its own: challenge, client credentials, get key, wrapkey and unwrapkey with real RSA, versions,
 * disabling, soft delete. Written from the published REST reference; it is not Azure.
 */
import { execFile } from "node:child_process";
import {
  constants,
  createHash,
  generateKeyPairSync,
  type KeyObject,
  privateDecrypt,
  publicEncrypt,
} from "node:crypto";
import { readFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";

import { createTempFolder } from "#testing/temp-folder.ts";

/** Who may ask; the emulator gives out tokens for nobody else. */
export const emulatorClient = {
  tenantId: "11111111-2222-3333-4444-555555555555",
  clientId: "66666666-7777-8888-9999-000000000000",
  clientSecret: "emulator-secret~not-one",
} as const;

interface Version {
  readonly id: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  isEnabled: boolean;
}

/** What the next request meets instead of an answer. */
export type Trouble = "throttle" | "error" | "drop" | "expire-token";

/** A running emulator. */
export interface KeyVaultEmulator extends AsyncDisposable {
  /** `https://localhost:PORT`. */
  readonly origin: string;
  /** PEM file of the certificate, for NODE_EXTRA_CA_CERTS. */
  readonly certificateFile: string;
  readonly certificate: string;
  /** Lines `METHOD PATH STATUS` of everything that was asked. */
  readonly log: readonly string[];
  /** What the challenge names; by default the emulator itself. */
  resource: string;
  addVersion(name: string): string;
  setEnabled(name: string, version: string, isEnabled: boolean): void;
  setDeleted(name: string, isDeleted: boolean): void;
  /** The next requests to the vault meet these, one each. */
  trouble(...what: Trouble[]): void;
}

const run = promisify(execFile);
const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" } as const;
const bodyBytesMax = 64 * 1024;

/** Starts an emulator on a free port of the loopback interface. */
export async function startKeyVaultEmulator(): Promise<KeyVaultEmulator> {
  const folder = await createTempFolder();
  const [keyFile, certificateFile] = [join(folder.path, "key.pem"), join(folder.path, "cert.pem")];
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", keyFile];
  await run("openssl", ["req", ...made, "-out", certificateFile, ...subject]);
  const certificate = await readFile(certificateFile, "utf8");
  const state = new EmulatorState();
  const server = createServer(
    { key: await readFile(keyFile), cert: certificate },
    (ask, answer) => {
      void state.handle(ask, answer);
    },
  );
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
  state.origin = `https://localhost:${(server.address() as AddressInfo).port}`;
  state.resource = "https://localhost";
  return Object.assign(state, {
    certificate,
    certificateFile,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await folder[Symbol.asyncDispose]();
    },
  });
}

class EmulatorState {
  origin = "";
  resource = "";
  readonly log: string[] = [];
  readonly #keys = new Map<string, Version[]>();
  readonly #deleted = new Set<string>();
  #troubles: Trouble[] = [];
  #tokens = new Set<string>();

  addVersion(name: string): string {
    const pair = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const versions = this.#keys.get(name) ?? [];
    const id = createHash("sha256").update(`${name}/${versions.length}`).digest("hex").slice(0, 32);
    this.#keys.set(name, [...versions, { id, ...pair, isEnabled: true }]);
    return `${this.origin}/keys/${name}/${id}`;
  }

  setEnabled(name: string, version: string, isEnabled: boolean): void {
    const found = this.#keys.get(name)?.find(({ id }) => version.endsWith(id));
    if (found !== undefined) found.isEnabled = isEnabled;
  }

  setDeleted(name: string, isDeleted: boolean): void {
    if (isDeleted) this.#deleted.add(name);
    else this.#deleted.delete(name);
  }

  trouble(...what: Trouble[]): void {
    this.#troubles.push(...what);
  }

  async handle(ask: IncomingMessage, answer: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    let sizeBytes = 0;
    for await (const chunk of ask as AsyncIterable<Buffer>) {
      sizeBytes += chunk.byteLength;
      if (sizeBytes <= bodyBytesMax) chunks.push(chunk);
    }
    const body = Buffer.concat(chunks).toString("utf8");
    const url = new URL(ask.url ?? "/", this.origin);
    const isToken = url.pathname === `/${emulatorClient.tenantId}/oauth2/v2.0/token`;
    const trouble = isToken ? undefined : this.#troubles.shift();
    if (trouble === "drop") {
      ask.socket.destroy();
      return;
    }
    if (trouble === "expire-token") this.#tokens.clear();
    const reply = (status: number, value: object, headers: Record<string, string> = {}): void => {
      this.log.push(`${ask.method ?? ""} ${url.pathname} ${status}`);
      answer.writeHead(status, { "content-type": "application/json", ...headers });
      answer.end(JSON.stringify(value));
    };
    if (trouble === "throttle")
      reply(429, { error: { code: "Throttled" } }, { "retry-after": "0" });
    else if (trouble === "error") reply(503, { error: { code: "InternalError" } });
    else if (isToken) this.#giveToken(body, reply);
    else if (!this.#tokens.has(ask.headers.authorization ?? "")) {
      const where = `authorization="${this.origin}/${emulatorClient.tenantId}"`;
      const challenge = `Bearer ${where}, resource="${this.resource}"`;
      reply(401, { error: { code: "Unauthorized" } }, { "www-authenticate": challenge });
    } else this.#serveKey(ask.method ?? "", url, body, reply);
  }

  #giveToken(body: string, reply: (status: number, value: object) => void): void {
    const form = new URLSearchParams(body);
    const isKnown =
      form.get("grant_type") === "client_credentials" &&
      form.get("client_id") === emulatorClient.clientId &&
      form.get("client_secret") === emulatorClient.clientSecret &&
      form.get("scope") === `${this.resource}/.default`;
    if (!isKnown) return reply(401, { error: "invalid_client", error_description: body });
    const token = createHash("sha256").update(`${this.log.length}/${body}`).digest("hex");
    this.#tokens.add(`Bearer ${token}`);
    reply(200, { token_type: "Bearer", expires_in: 3599, access_token: token });
  }

  #serveKey(
    method: string,
    url: URL,
    body: string,
    reply: (status: number, value: object) => void,
  ): void {
    const [, , name = "", id = "", operation] = url.pathname.split("/");
    if (url.searchParams.get("api-version") !== "7.4") {
      return reply(400, { error: { code: "BadParameter" } });
    }
    const versions = this.#deleted.has(name) ? [] : (this.#keys.get(name) ?? []);
    const version = id === "" ? versions.at(-1) : versions.find((one) => one.id === id);
    if (version === undefined) return reply(404, { error: { code: "KeyNotFound" } });
    const kid = `${this.origin}/keys/${name}/${version.id}`;
    if (method === "GET") {
      const { n, e } = version.publicKey.export({ format: "jwk" });
      const key = { kid, kty: "RSA", key_ops: ["wrapKey", "unwrapKey"], n, e };
      return reply(200, { key, attributes: { enabled: version.isEnabled } });
    }
    if (!version.isEnabled) {
      return reply(403, { error: { code: "Forbidden", innererror: { code: "KeyDisabled" } } });
    }
    const { alg, value } = JSON.parse(body) as { alg: string; value: string };
    if (alg !== "RSA-OAEP-256") return reply(400, { error: { code: "BadParameter" } });
    const bytes = Buffer.from(value, "base64url");
    try {
      const result =
        operation === "wrapkey"
          ? publicEncrypt({ key: version.publicKey, ...oaep }, bytes)
          : privateDecrypt({ key: version.privateKey, ...oaep }, bytes);
      reply(200, { kid, value: result.toString("base64url") });
    } catch {
      reply(400, { error: { code: "BadParameter", message: "decryption failed" } });
    }
  }
}
