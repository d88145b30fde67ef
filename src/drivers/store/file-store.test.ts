// Goal: the file store passes the suite, and its files, folders and errors are what they should be.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";

import { present } from "#base/assert.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { createPartName, type PartWriter, readPartWriter } from "#drivers/process/part-name.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { listAll, testObjectStore } from "#testing/suites/object-store-suite.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { openFileStore } from "./file-store.ts";
import { systemFiles, type FileSystem } from "./file-system.ts";
import { foreignTempAgeMs, staleTempAgeMs } from "./temp-files.ts";

const one = Uint8Array.of(1);

const code =
  (expected: string) =>
  (error: unknown): boolean =>
    isKluisError(error) && error.code === expected;

testObjectStore("file store", {
  open: async () => {
    const folder = await createTempFolder();
    const open = () => openFileStore(`${folder.path}/store`, { create: true });
    return {
      store: await open(),
      openAgain: open,
      [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
    };
  },
});

test("file store: objects are plain read-only files under their names, folders are private", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/a/b`;
  const store = await openFileStore(root, { create: true });
  await store.put("packs/00/x", [one, Uint8Array.of(2)]);
  await store.put("vault.json", [one]);
  assert.deepEqual([...(await readFile(`${root}/packs/00/x`))], [1, 2]);
  for (const file of ["packs/00/x", "vault.json"]) {
    const info = await stat(`${root}/${file}`);
    assert.equal(info.mode & 0o777, 0o400);
    assert.equal(info.nlink, 1);
  }
  for (const directory of ["", "/packs", "/packs/00", "/tmp", "/.."]) {
    assert.equal((await stat(root + directory)).mode & 0o777, 0o700, directory);
  }
  assert.deepEqual(await readdir(`${root}/tmp`), []);
});

test("file store: opening creates only what it is told to, and reading writes nothing", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/store`;
  await assert.rejects(openFileStore(root), code("StoreNotFound"));
  await writeFile(`${folder.path}/file`, "");
  await assert.rejects(openFileStore(`${folder.path}/file`), code("StoreNotFound"));
  await assert.rejects(
    openFileStore(`${folder.path}/file`, { create: true }),
    code("StoreNotFound"),
  );
  await assert.rejects(
    openFileStore(`${folder.path}/file/store`, { create: true }),
    code("StoreForeign"),
  );
  await mkdir(root);
  const store = await openFileStore(root);
  assert.equal(await store.stat("a"), undefined);
  assert.equal((await listAll(store)).size, 0);
  await assert.rejects(store.get("a"), code("ObjectNotFound"));
  await store.remove("a/b");
  assert.deepEqual(await readdir(root), []);
});

test("file store: a folder with foreign files is not taken for a new store", async () => {
  await using folder = await createTempFolder();
  for (const name of ["lost+found", "tmp", "packs", "vault.json"])
    await mkdir(`${folder.path}/${name}`);
  await openFileStore(folder.path, { create: true });
  for (const name of ["IMG_0001.JPG", ".bash_history", "my notes"]) {
    await writeFile(`${folder.path}/${name}`, "");
    await assert.rejects(openFileStore(folder.path, { create: true }), code("StoreForeign"), name);
    await openFileStore(folder.path);
    await rm(`${folder.path}/${name}`);
  }
});

test("file store: foreign files are neither listed nor read nor touched", async () => {
  await using folder = await createTempFolder();
  const store = await openFileStore(folder.path);
  await store.put("a/b", [one]);
  await writeFile(`${folder.path}/a/B`, "x");
  await writeFile(`${folder.path}/a/.hidden`, "x");
  await mkdir(`${folder.path}/c`);
  await symlink(folder.path, `${folder.path}/a/loop`);
  await promisify(execFile)("mkfifo", [`${folder.path}/a/pipe`]);
  assert.deepEqual([...(await listAll(store)).keys()], ["a/b"]);
  for (const name of ["a/pipe", "c"]) {
    await assert.rejects(store.get(name), code("ObjectNotFound"));
    await assert.rejects(store.put(name, [one]), code("StoreForeign"));
    assert.equal(await store.stat(name), undefined);
  }
  await assert.rejects(store.put("a/b/c", [one]), code("StoreForeign"));
  assert.deepEqual(await readdir(`${folder.path}/tmp`), [], "failed puts leave nothing");
});

test("file store: a store that was unmounted is not an empty one, and nothing is written there", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/store`;
  const store = await openFileStore(root, { create: true });
  await store.put("a/b", [one]);
  await rename(root, `${folder.path}/away`);
  for (const isMountPointThere of [false, true]) {
    if (isMountPointThere) await mkdir(root);
    await assert.rejects(store.stat("a/b"), code("StoreUnavailable"));
    await assert.rejects(store.get("a/b"), code("StoreUnavailable"));
    await assert.rejects(listAll(store), code("StoreUnavailable"));
    await assert.rejects(store.put("c", [one]), code("StoreUnavailable"));
    await assert.rejects(store.remove("a/b"), code("StoreUnavailable"));
    await assert.rejects(store.probe(), code("StoreUnavailable"));
  }
  assert.deepEqual(await readdir(root), []);
  await rm(root, { recursive: true });
  await rename(`${folder.path}/away`, root);
  assert.equal(await store.put("a/b", [one]), "exists");
});

test("file store: a folder removed behind its back is an error, not a lost object", async () => {
  await using folder = await createTempFolder();
  const store = await openFileStore(folder.path);
  await store.put("a/b", [one]);
  await rm(`${folder.path}/a`, { recursive: true });
  await assert.rejects(store.put("a/c", [one]), code("StoreUnavailable"));
  assert.deepEqual(await readdir(`${folder.path}/tmp`), []);
});

test("file store: an object larger than any is ObjectCorrupt, not out of memory", async () => {
  await using folder = await createTempFolder();
  const store = await openFileStore(folder.path);
  await promisify(execFile)("truncate", ["-s", "5G", `${folder.path}/big`]);
  await assert.rejects(store.get("big"), code("ObjectCorrupt"));
  assert.equal((await store.get("big", { offsetBytes: 2 ** 32, lengthBytes: 5 })).byteLength, 5);
  assert.equal((await store.stat("big"))?.sizeBytes, 5 * 2 ** 30);
});

test("file store: the first put sweeps temporary files of dead writers, and those alone", async () => {
  await using folder = await createTempFolder();
  const tmp = `${folder.path}/tmp`;
  await mkdir(tmp);
  const self = present(await readPartWriter(), "/proc is mounted");
  const random = createSeededRandom("sweep");
  const clock = new ManualClock(Date.UTC(2030, 0, 1));
  const hourOld = staleTempAgeMs + 1000;
  const weekOld = foreignTempAgeMs + 1000;
  const other = "0123456789abcdef";
  const files: [PartWriter, number, boolean][] = [
    // The pid of this process, but used by an earlier one.
    [{ ...self, startTicks: self.startTicks - 1 }, hourOld, true],
    [{ ...self, startTicks: self.startTicks - 1 }, staleTempAgeMs - 1000, false],
    [{ ...self, pid: 4_194_305 }, hourOld, true],
    [self, weekOld, false],
    [{ ...self, scope: other }, weekOld, true],
    [{ ...self, scope: other }, hourOld, false],
  ];
  const kept = ["notes.txt", "1-1-x"];
  for (const name of kept) await writeFile(`${tmp}/${name}`, "");
  const goneNames: string[] = [];
  for (const [writer, ageMs, isSwept] of files) {
    const name = createPartName(writer, random);
    await writeFile(`${tmp}/${name}`, "");
    const writtenAt = (clock.nowMs() - ageMs) / 1000;
    await utimes(`${tmp}/${name}`, writtenAt, writtenAt);
    (isSwept ? goneNames : kept).push(name);
  }
  const store = await openFileStore(folder.path, { clock });
  assert.equal((await listAll(store)).size, 0);
  assert.ok((await readdir(tmp)).includes(goneNames[0] ?? ""), "reading sweeps nothing");
  await store.put("a", [one]);
  assert.deepEqual((await readdir(tmp)).sort(), kept.sort());
});

test("file store: a put goes on when the object it found is removed before it looks", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/store`;
  let removals = 1;
  const files: FileSystem = {
    ...systemFiles,
    async link(path, newPath) {
      try {
        await systemFiles.link(path, newPath);
      } catch (error) {
        if (removals-- > 0) await systemFiles.unlink(newPath);
        throw error;
      }
    },
  };
  const store = await openFileStore(root, { create: true, files });
  assert.equal(await store.put("a", [Uint8Array.of(1)]), "created");
  assert.equal(await store.put("a", [Uint8Array.of(2)]), "created");
  assert.deepEqual([...(await store.get("a"))], [2]);
  assert.equal(await store.put("a", [Uint8Array.of(3)]), "exists");
});
