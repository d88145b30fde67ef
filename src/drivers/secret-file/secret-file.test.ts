// Goal: a key file is private and durable from its first byte, and one that is not is refused.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdir, readdir, stat, symlink, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";

import { isKluisError } from "#base/kluis-error.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import {
  createSecretFile,
  readSecretFile,
  replaceSecretFile,
  secretFileBytesMax,
} from "./secret-file.ts";

const content = new TextEncoder().encode("a secret\n");

function refused(reason: RegExp) {
  return (error: unknown): boolean =>
    isKluisError(error, "ArgumentInvalid") && reason.test(error.message);
}

test("secret file: is created with mode 0600 and reads back", async () => {
  await using folder = await createTempFolder();
  const path = `${folder.path}/key`;
  await createSecretFile("key file", path, content);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readSecretFile("key file", path), content);
});

test("secret file: nothing is overwritten or written through a link", async () => {
  await using folder = await createTempFolder();
  const path = `${folder.path}/key`;
  await writeFile(path, "mine", { mode: 0o600 });
  await symlink(`${folder.path}/elsewhere`, `${folder.path}/link`);
  for (const taken of [path, `${folder.path}/link`]) {
    await assert.rejects(createSecretFile("key file", taken, content), refused(/it exists$/));
  }
  assert.deepEqual(await readSecretFile("key file", path), new TextEncoder().encode("mine"));
  await assert.rejects(
    createSecretFile("key file", `${folder.path}/no/key`, content),
    refused(/no such file or folder$/),
  );
  assert.deepEqual((await readdir(folder.path)).sort(), ["key", "link"]);
});

test("secret file: one that others may use is refused, with what to do", async () => {
  await using folder = await createTempFolder();
  const path = `${folder.path}/key`;
  await createSecretFile("passphrase file", path, content);
  for (const mode of [0o640, 0o604, 0o644, 0o620, 0o602, 0o610]) {
    await chmod(path, mode);
    await assert.rejects(readSecretFile("passphrase file", path), refused(/chmod 600/));
  }
  for (const mode of [0o600, 0o400]) {
    await chmod(path, mode);
    assert.deepEqual(await readSecretFile("passphrase file", path), content);
  }
});

test("secret file: says what is wrong with the path", async () => {
  await using folder = await createTempFolder();
  await mkdir(`${folder.path}/folder`);
  await writeFile(`${folder.path}/long`, new Uint8Array(secretFileBytesMax + 1), { mode: 0o600 });
  await writeFile(`${folder.path}/full`, new Uint8Array(secretFileBytesMax), { mode: 0o600 });
  const cases: [string, RegExp][] = [
    ["missing", /no such file/],
    ["folder", /it is a folder/],
    ["long", /too long/],
    ["full/x", /no folder/],
  ];
  for (const [name, reason] of cases) {
    await assert.rejects(readSecretFile("key file", `${folder.path}/${name}`), refused(reason));
  }
  const full = await readSecretFile("key file", `${folder.path}/full`);
  assert.equal(full.byteLength, secretFileBytesMax);
});

test("secret file: reads a pipe", async () => {
  await using folder = await createTempFolder();
  const pipe = `${folder.path}/pipe`;
  await promisify(execFile)("mkfifo", ["-m", "0644", pipe]);
  const [bytes] = await Promise.all([readSecretFile("key file", pipe), writeFile(pipe, content)]);
  assert.deepEqual(bytes, content);
});

test("secret file: replacing one leaves the new content, of mode 0600, and nothing else", async () => {
  await using folder = await createTempFolder();
  const path = `${folder.path}/kit`;
  await createSecretFile("recovery key file", path, content);
  const other = new TextEncoder().encode("another\n");
  await replaceSecretFile("recovery key file", path, other);
  assert.deepEqual(await readSecretFile("recovery key file", path), other);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(folder.path), ["kit"]);
});
