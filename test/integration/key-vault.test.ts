// Goal: the driver for Azure Key Vault passes the suite of key providers, survives what networks and
// services do, and gives its token to nobody else. Method: an emulator of the protocol with TLS and real
// RSA (test/integration/key-vault-emulator.ts); no real Azure is reached from here.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { getCACertificates, setDefaultCACertificates } from "node:tls";

import { systemClock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { readAzureCredentials } from "#drivers/key-vault/credentials.ts";
import { openKeyVaults, resourceOf } from "#drivers/key-vault/key-vault-provider.ts";
import type { KeyProvider } from "#ports/key-provider.ts";
import { testKeyProvider } from "#testing/suites/key-provider-suite.ts";
import {
  emulatorClient,
  type KeyVaultEmulator,
  startKeyVaultEmulator,
} from "./key-vault-emulator.ts";

let emulator: KeyVaultEmulator;
let names = 0;

before(async () => {
  emulator = await startKeyVaultEmulator();
  setDefaultCACertificates([...getCACertificates("default"), emulator.certificate]);
});
after(() => emulator[Symbol.asyncDispose]());

/** Waits pass at once, but for the end of time of a try. */
const clock = {
  ...systemClock,
  sleep: (delayMs: number, signal?: AbortSignal) =>
    systemClock.sleep(delayMs > 12_000 ? delayMs : 0, signal),
};

function openProvider(changes: Readonly<Record<string, string>> = {}): KeyProvider {
  const credentials = readAzureCredentials({
    AZURE_AUTHORITY_HOST: emulator.origin,
    AZURE_TENANT_ID: emulatorClient.tenantId,
    AZURE_CLIENT_ID: emulatorClient.clientId,
    AZURE_CLIENT_SECRET: emulatorClient.clientSecret,
    ...changes,
  });
  return openKeyVaults(credentials, { clock, random: systemRandom });
}

testKeyProvider("key vault", async () => {
  const name = `key-${names++}`;
  const key = `${emulator.origin}/keys/${name}`;
  emulator.addVersion(name);
  return {
    provider: openProvider(),
    key,
    absentKey: `${emulator.origin}/keys/none`,
    badNames: [
      "",
      "http://localhost/keys/a",
      "https://localhost/secrets/a",
      "https://localhost/keys/",
      "https://u:p@localhost/keys/a",
      "https://localhost/keys/a?x=1",
      "https://localhost/keys/a/b/c",
      "local:a",
    ],
    addVersion: async () => void emulator.addVersion(name),
    setEnabled: async (version, isEnabled) => emulator.setEnabled(name, version, isEnabled),
    delete: async () => emulator.setDeleted(name, true),
    recover: async () => emulator.setDeleted(name, false),
    [Symbol.asyncDispose]: async () => {},
  };
});

const isCode =
  (code: string, reason = /./) =>
  (error: unknown): boolean =>
    isKluisError(error) && error.code === code && reason.test(error.message);
const plain = systemRandom.bytes(32);

test("key vault: goes on after throttling, errors, a broken connection and a token that ended", async () => {
  const key = emulator.addVersion("troubled");
  const provider = openProvider();
  const wrapped = await provider.wrap(key, plain);
  emulator.trouble("throttle", "drop", "error");
  assert.deepEqual(await provider.unwrap(wrapped), plain);
  emulator.trouble("expire-token");
  assert.deepEqual(await provider.unwrap(wrapped), plain);
  emulator.trouble("error", "drop", "throttle", "error");
  await assert.rejects(provider.unwrap(wrapped), isCode("KeyUnavailable", /status 503/));
});

test("key vault: asks once for a token, and says nothing before it has one", async () => {
  const key = emulator.addVersion("quiet");
  const provider = openProvider();
  const from = emulator.log.length;
  const wrapped = await provider.wrap(key, plain);
  await provider.unwrap(wrapped);
  const asked = emulator.log.slice(from).map((line) => line.replace(/ \/\S*\/(\w+) /, " $1 "));
  assert.equal(asked.filter((line) => line.startsWith("POST token")).length, 1);
  assert.equal(asked.filter((line) => line.endsWith(" 401")).length, 1);
});

test("key vault: a token is not asked for another service's sake", async () => {
  const key = emulator.addVersion("foreign");
  const own = emulator.resource;
  const from = emulator.log.length;
  for (const resource of [
    "https://vault.azure.net",
    "https://management.azure.com",
    "x",
    "http://localhost",
  ]) {
    emulator.resource = resource;
    await assert.rejects(openProvider().wrap(key, plain), isKluisError);
  }
  emulator.resource = own;
  assert.ok(!emulator.log.slice(from).some((line) => line.includes("/token ")));
  assert.equal(
    resourceOf('Bearer scope="https://vault.azure.net/.default"'),
    "https://vault.azure.net",
  );
  assert.equal(resourceOf('Basic realm="x"'), undefined);
});

test("key vault: wrong credentials and an authority that is not there are told, without the secret", async () => {
  const key = emulator.addVersion("denied");
  const secret = "wrong-secret-canary";
  await assert.rejects(openProvider({ AZURE_CLIENT_SECRET: secret }).wrap(key, plain), (error) => {
    assert.ok(isKluisError(error, "KeyDenied"), String(error));
    assert.match(error.message, /status 401, invalid_client/);
    assert.ok(!JSON.stringify([error, error.stack, String(error.cause)]).includes(secret));
    return true;
  });
  const nobody = { AZURE_AUTHORITY_HOST: "https://localhost:1" };
  await assert.rejects(
    openProvider(nobody).wrap(key, plain),
    isCode("KeyUnavailable", /cannot be reached/),
  );
  const plainHttp = { AZURE_AUTHORITY_HOST: "http://localhost:1" };
  await assert.rejects(
    openProvider(plainHttp).wrap(key, plain),
    isCode("ArgumentInvalid", /https/),
  );
  const federated = { AZURE_CLIENT_SECRET: "", AZURE_FEDERATED_TOKEN_FILE: "/nonexistent" };
  await assert.rejects(openProvider(federated).wrap(key, plain), isCode("KeyDenied", /TOKEN_FILE/));
});
