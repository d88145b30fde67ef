// Goal: keys in a folder pass the suite of key providers, are private, and are not lost by a slip.
import assert from "node:assert/strict";
import { chmod, mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { systemRandom } from "#base/random.ts";
import { testKeyProvider } from "#testing/suites/key-provider-suite.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import type { ManagedKeys, ProviderKeyType } from "#ports/key-provider.ts";
import { openLocalKeys } from "./local-key-provider.ts";

const scheme = "local:";

async function openWorld(): Promise<{ keys: ManagedKeys; path: string } & AsyncDisposable> {
  const folder = await createTempFolder();
  const path = join(folder.path, "keys");
  const keys = openLocalKeys(path, { scheme, random: systemRandom });
  return { keys, path, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

for (const type of ["AES", "RSA"] satisfies ProviderKeyType[]) {
  testKeyProvider(`local ${type} key`, async () => {
    const world = await openWorld();
    const { keys } = world;
    const key = "local:vault-1";
    await keys.create(key, type);
    return {
      provider: keys,
      key,
      absentKey: "local:vault-2",
      badNames: ["", "local:", "local:a/b", "local:../x", "platform:vault-1", "local:a/b/c", "x"],
      addVersion: async () => void (await keys.addVersion(key)),
      setEnabled: (version, isEnabled) => keys.setEnabled(version, isEnabled),
      delete: () => keys.move(key, "delete"),
      recover: () => keys.move(key, "recover"),
      [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
    };
  });
}

const isCode =
  (code: string, reason = /./) =>
  (error: unknown): boolean =>
    isKluisError(error) && error.code === code && reason.test(error.message);

test("local keys: are private files, and refused where others may read them", async () => {
  await using world = await openWorld();
  const { keys, path } = world;
  const name = await keys.create("local:a", "AES");
  const file = join(path, "a", name.slice("local:a/".length));
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.equal((await stat(join(path, "a"))).mode & 0o777, 0o700);
  await chmod(file, 0o640);
  await assert.rejects(keys.wrap("local:a", new Uint8Array(32)), isCode("KeyDenied", /chmod 600/));
  await chmod(file, 0o600);
  const text = await readFile(file, "utf8");
  await writeFile(file, text.replace(/"material":"./, '"material":"x'));
  await assert.rejects(keys.wrap("local:a", new Uint8Array(32)), isCode("KeyDenied", /damaged/));
});

test("local RSA key: what was wrapped unwraps in its full length only, though its first byte is 0", async () => {
  await using world = await openWorld();
  const { keys } = world;
  await keys.create("local:a", "RSA");
  const plain = new Uint8Array(32).fill(7);
  let wrapped = await keys.wrap("local:a", plain);
  // One in 256 begins with 0, and is the same number without it.
  for (let tries = 0; wrapped.wrapped[0] !== 0; tries++) {
    assert.ok(tries < 10_000);
    wrapped = await keys.wrap("local:a", plain);
  }
  assert.deepEqual(await keys.unwrap(wrapped), plain);
  const cut = { ...wrapped, wrapped: wrapped.wrapped.subarray(1) };
  await assert.rejects(keys.unwrap(cut), isCode("KeyDenied"));
});

test("local keys: are listed with versions, and names are not taken twice", async () => {
  await using world = await openWorld();
  const { keys, path } = world;
  assert.deepEqual(await keys.list(), []);
  await keys.create("local:b", "AES");
  await keys.addVersion("local:b");
  await keys.setEnabled("local:b", false);
  await keys.create("local:a", "AES");
  await assert.rejects(keys.create("local:a", "AES"), isCode("ArgumentInvalid", /exists/));
  await keys.move("local:a", "delete");
  await assert.rejects(keys.create("local:a", "AES"), isCode("ArgumentInvalid", /deleted/));
  await assert.rejects(keys.move("local:a", "delete"), isCode("KeyDenied", /no key/));
  const shown = (await keys.list()).map(({ key, isDeleted, versions }) => {
    return [key, isDeleted, ...versions.map(({ isEnabled }) => isEnabled)];
  });
  assert.deepEqual(shown, [
    ["local:b", false, true, false],
    ["local:a", true],
  ]);
  await keys.move("local:a", "purge");
  assert.deepEqual(await readdir(path), ["b"]);
  await assert.rejects(keys.addVersion("local:a"), isCode("KeyDenied", /no key/));
});

test("local keys: one whose making was cut off is none, and is made again", async () => {
  await using world = await openWorld();
  const { keys, path } = world;
  await mkdir(join(path, "a"), { recursive: true });
  await writeFile(join(path, "a", "0000000112345678.new"), "half a key");
  assert.deepEqual(await keys.list(), []);
  await assert.rejects(keys.wrap("local:a", new Uint8Array(32)), isCode("KeyDenied", /no key/));
  await keys.create("local:a", "AES");
  assert.equal((await keys.wrap("local:a", new Uint8Array(32))).algorithm, "A256KW");
  assert.equal((await keys.list()).length, 1);
});
