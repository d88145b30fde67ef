// Goal: what a host remembers is there for the next process, and of two that write at once none is lost.
// Method: write, read and replace in a temporary folder.
import assert from "node:assert/strict";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { HostMemory } from "./host-memory.ts";

test("host memory: reads what was written last, and nothing where nothing was", async () => {
  await using folder = await createTempFolder();
  const memory = new HostMemory(join(folder.path, "deep/state"));
  assert.deepEqual(await memory.read("vault"), []);
  await memory.replace("vault", [], Buffer.from("one"));
  const [one] = await memory.read("vault");
  assert.equal(Buffer.from(one?.content ?? []).toString(), "one");
  await memory.replace("vault", [one?.name ?? ""], Buffer.from("two"));
  const files = await memory.read("vault");
  assert.deepEqual(
    files.map(({ content }) => Buffer.from(content).toString()),
    ["two"],
  );
  assert.deepEqual(await memory.read("other"), []);
});

test("host memory: keeps both where two processes replace the same file", async () => {
  await using folder = await createTempFolder();
  const memory = new HostMemory(folder.path);
  await memory.replace("vault", [], Buffer.from("old"));
  const old = (await memory.read("vault")).map(({ name }) => name);
  await Promise.all(["a", "b"].map((text) => memory.replace("vault", old, Buffer.from(text))));
  const texts = (await memory.read("vault")).map(({ content }) => Buffer.from(content).toString());
  assert.deepEqual(texts.sort(), ["a", "b"]);
});

test("host memory: takes no file for its own that was cut off, and writes the same twice", async () => {
  await using folder = await createTempFolder();
  const memory = new HostMemory(folder.path);
  await memory.replace("vault", [], Buffer.from("one"));
  const drafts = [process.pid, 4_194_305].map((pid) => `${"0".repeat(64)}.${pid}`);
  for (const draft of drafts) await writeFile(join(folder.path, "vault", draft), "half");
  const [one] = await memory.read("vault");
  await memory.replace("vault", [one?.name ?? ""], Buffer.from("one"));
  assert.equal((await memory.read("vault")).length, 1);
  const left = new Set(await readdir(join(folder.path, "vault")));
  assert.deepEqual(left, new Set([drafts[0], one?.name]), "no draft of a process that is gone");
});

test("host memory: says which folder it cannot write", async () => {
  await using folder = await createTempFolder();
  await writeFile(join(folder.path, "file"), "");
  const memory = new HostMemory(join(folder.path, "file"));
  await assert.rejects(memory.replace("vault", [], Buffer.from("x")), (error: unknown) => {
    return isKluisError(error, "ArgumentInvalid") && error.message.includes("file/vault");
  });
});
