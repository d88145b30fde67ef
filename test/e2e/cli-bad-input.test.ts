/**
 * Goal: every bad input gives its code, its exit code and what to do, never a stack trace, and loses
 * nothing. Method: the real command; at the end of each test the vault must list what it held and
 * verify sound.
 */
import assert from "node:assert/strict";
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { test } from "node:test";

import type { PointsOutput, VerifyOutput } from "#contract/cli-output.ts";
import { encodeVaultHeader } from "#formats/vault-header.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { mustRun, writeImage, writeRawImage } from "../integration/disk-images.ts";
import { startQemuNbdServer } from "../integration/nbd-servers.ts";
import { assertFailure, type CliWorld, createWorld, parseError } from "./cli.ts";

const MiB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;

/** A world with one recovery point of `a.raw`. */
async function createKeptWorld(): Promise<CliWorld & { readonly kept: PointsOutput }> {
  const world = await createWorld();
  const disk = new MemoryDisk(4 * MiB);
  disk.write(0, createPrng(testSeed()).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
  await world.backup("a.raw");
  return Object.assign(world, { kept: await world.points() });
}

async function assertNothingLost(world: CliWorld & { readonly kept: PointsOutput }): Promise<void> {
  assert.deepEqual(await world.points(), world.kept);
  const report = await world.json<VerifyOutput>(["image", "verify", ...world.vault]);
  assert.equal(report.verdict, "sound");
}

test("cli errors: command lines that cannot be read", async () => {
  await using world = await createWorld({ withVault: false });
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["image", "backup", "a.raw"], /--store/],
    [["image", "backup", "--store", "v"], /missing required argument 'image'/],
    [["image", "backup", "a", "b", "--store", "v"], /too many arguments/],
    [["image", "bakcup"], /unknown command 'bakcup'.*backup/],
    [["image"], /a command is missing/],
    [["frobnicate"], /unknown command/],
    [["image", "list", "--store", "v", "--frob"], /unknown option '--frob'/],
    [["image", "list", "--store", "v", "--output", "xml"], /'--output <form>'.*table, json/],
    [["image", "list", "--store", "", "--key-file", "k"], /cannot read|--store|no such file/i],
    [["vm", "list"], /neither --vm, --vms nor --connect/],
    [["vm", "list", "--vm", "v.json", "--layer-pool", "p"], /--layer-pool without --connect/],
  ];
  for (const [words, reason] of cases) {
    assertFailure(await world.run(words), "ArgumentInvalid", reason);
  }
});

test("cli errors: values that make no sense", async () => {
  await using world = await createKeptWorld();
  const { vault } = world;
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["image", "backup", "a.raw", ...vault, "--workers", "0"], /--workers.*1 to 16/],
    [["image", "backup", "a.raw", ...vault, "--workers", "two"], /"two" for --workers/],
    [["image", "backup", "a.raw", ...vault, "--bitmap", "b"], /no NBD export/],
    [["image", "backup", "a.raw", ...vault, "--since", "x"], /--since: it needs --bitmap/],
    [["image", "restore", "a.raw", "b.raw", ...vault, "--point", "yesterday"], /"yesterday"/],
    [
      ["image", "restore", "a.raw", "b.raw", ...vault, "--disk", "vdz"],
      /disk "vdz".*has the disks/,
    ],
    [["image", "list", ...vault, "--passphrase-file", "p"], /both given/],
    [["image", "list", "--store", "ftp://bucket", "--key-file", "key"], /"ftp" are not known/],
    [["image", "list", "--store", "s3://bucket", "--key-file", "key"], /no region is named/],
  ];
  for (const [words, reason] of cases) {
    assertFailure(await world.run(words), "ArgumentInvalid", reason);
  }
  await assertNothingLost(world);
});

test("cli errors: what is no image, or is not there", async () => {
  await using world = await createKeptWorld();
  const backup = (image: string, ...more: string[]) =>
    world.run(["image", "backup", image, ...world.vault, ...more]);
  assertFailure(await backup("no.raw"), "ImageNotFound", /"[^"]*no.raw"/);
  await mkdir(world.at("folder"));
  assertFailure(await backup("folder"), "ImageInvalid", /neither a file nor a block device/);
  await writeFile(world.at("empty.raw"), "");
  assertFailure(await backup("empty.raw"), "ImageInvalid", /empty/);
  await writeFile(world.at("text.qcow2"), "This is no image.\n");
  assertFailure(await backup("text.qcow2", "--format", "qcow2"), "ImageInvalid", /qcow2/);
  const broken = new Uint8Array(4096).fill(0xff);
  broken.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
  await writeFile(world.at("broken.qcow2"), broken);
  assertFailure(await backup("broken.qcow2"), "ImageInvalid", /broken.qcow2/);
  await assertNothingLost(world);
});

test("cli errors: an image that another program writes", async () => {
  await using world = await createKeptWorld();
  await writeImage(world.at("b.qcow2"), "qcow2", new MemoryDisk(4 * MiB));
  for (const [image, format] of [
    ["a.raw", "raw"],
    ["b.qcow2", "qcow2"],
  ] as const) {
    const words = ["image", "backup", image, ...world.vault, "--format", format];
    const server = await startQemuNbdServer(world.at("nbd"), ["-f", format, world.at(image)]);
    assertFailure(await world.run(words), "ImageInUse", /open for writing/);
    await server[Symbol.asyncDispose]();
    await rm(world.at("nbd"), { force: true });
  }
  await assertNothingLost(world);
});

test("cli errors: an NBD server that is not there, or lacks the export or the bitmap", async () => {
  await using world = await createKeptWorld();
  const uri = `nbd+unix:///?socket=${world.at("nbd")}`;
  const backup = (place: string, ...more: string[]) =>
    world.run(["image", "backup", place, ...world.vault, ...more]);
  assertFailure(await backup(uri), "NbdUnavailable", /Cannot/);
  assertFailure(await backup("nbd://"), "ArgumentInvalid", /names no host/);
  assertFailure(await backup("nbds://host/x"), "NbdUnsupported", /not supported/);
  await using _ = await startQemuNbdServer(world.at("nbd"), ["-r", "-f", "raw", world.at("a.raw")]);
  assertFailure(await backup(uri, "--bitmap", "kluis"), "NbdUnsupported", /bitmap/);
  await assertNothingLost(world);
});

test("cli errors: stores that are missing, foreign, newer or damaged", async () => {
  await using world = await createKeptWorld();
  const list = (store: string) =>
    world.run(["image", "list", "--store", store, "--key-file", world.at("key")]);
  assertFailure(await list("nowhere"), "StoreNotFound", /nowhere/);
  await mkdir(world.at("void"));
  assertFailure(await list("void"), "StoreNotFound", /there is none/);
  await mkdir(world.at("photos"));
  await writeFile(world.at("photos/cat.jpg"), "meow");
  assertFailure(await list("photos"), "StoreForeign", /not a Kluis vault/);
  const create = (store: string) =>
    world.run(["vault", "create", "--store", store, "--key-file", world.at("key2")]);
  assertFailure(await create("photos"), "StoreForeign", /not a Kluis vault/);
  assertFailure(await create("vault"), "StoreNotEmpty", /there is one/);
  assert.deepEqual(await readdir(world.at("photos")), ["cat.jpg"]);
  await assert.rejects(stat(world.at("key2")), "no key is made for a place that cannot be a vault");
  const newer = new TextDecoder()
    .decode(encodeVaultHeader({ version: 1, vaultId: new Uint8Array(16) }))
    .replace('"version":1', '"version":2');
  await mkdir(world.at("newer"));
  await writeFile(world.at("newer/vault.json"), await withChecksum(newer));
  assertFailure(await list("newer"), "StoreFormatNewer", /version 2/);
  await mkdir(world.at("damaged"));
  await writeFile(world.at("damaged/vault.json"), newer);
  assertFailure(await list("damaged"), "ObjectCorrupt", /vault.json/);
  await assertNothingLost(world);
});

/** A header with the checksum of its own text. */
async function withChecksum(header: string): Promise<string> {
  const { createHash } = await import("node:crypto");
  const end = header.indexOf(',"sha256":');
  const sha256 = createHash("sha256").update(header.slice(0, end)).digest("hex");
  return `${header.slice(0, end)},"sha256":"${sha256}"}${header.endsWith("\n") ? "\n" : ""}`;
}

test("cli errors: no key, a wrong key, half a key, a key that others can read", async () => {
  await using world = await createKeptWorld();
  const store = ["--store", world.at("vault")];
  const list = (...words: string[]) => world.run(["image", "list", ...store, ...words]);
  assertFailure(await list(), "KeyMissing", /no key was given/);
  await world.ok(["vault", "create", "--store", "other", "--key-file", world.at("other-key")]);
  assertFailure(
    await list("--key-file", "other-key"),
    "KeyWrong",
    /key file opens none of its key slots/,
  );
  const wrong = await world.run(["image", "list", ...store], {
    variables: { KLUIS_PASSPHRASE: "correct horse" },
  });
  assertFailure(wrong, "KeyWrong", /no key slot for this passphrase/);
  assert.doesNotMatch(wrong.stderr, /correct horse/);
  await writeFile(world.at("half"), (await readFile(world.at("key"))).subarray(0, 40), {
    mode: 0o600,
  });
  assertFailure(await list("--key-file", "half"), "ArgumentInvalid", /holds no Kluis key/);
  assertFailure(await list("--key-file", "gone"), "ArgumentInvalid", /no such file/);
  await copyFile(world.at("key"), world.at("open"));
  await mustRun("chmod", ["644", world.at("open")]);
  assertFailure(await list("--key-file", "open"), "ArgumentInvalid", /chmod 600/);
  const mistyped = await world.run(["rescue", "list", ...store, "--recovery-key-file", "-"], {
    stdin: "ABCD-EFGH\n",
  });
  assertFailure(mistyped, "ArgumentInvalid", /letters/);
  assert.doesNotMatch(mistyped.stderr, /ABCD/);
  await assertNothingLost(world);
});

test("cli errors: targets that exist, are too small, or cannot be written", async () => {
  await using world = await createKeptWorld();
  const restore = (target: string, ...more: string[]) =>
    world.run(["image", "restore", "a.raw", target, ...world.vault, ...more]);
  await writeFile(world.at("precious"), "do not lose me");
  assertFailure(await restore("precious"), "TargetExists", /precious/);
  assert.equal(await readFile(world.at("precious"), "utf8"), "do not lose me");
  assertFailure(await restore("no/such/folder/x"), "TargetWriteFailed", /no\/such/);
  await writeFile(world.at("small.raw"), "");
  await truncate(world.at("small.raw"), MiB);
  const uri = `nbd+unix:///?socket=${world.at("nbd")}`;
  await using _ = await startQemuNbdServer(world.at("nbd"), ["-f", "raw", world.at("small.raw")]);
  assertFailure(await restore(uri), "TargetExists", /exists/);
  assertFailure(await restore(uri, "--overwrite"), "TargetTooSmall", /1048576 bytes/);
  assertFailure(
    await restore("x", "--point", "0".repeat(12) + "-" + "0".repeat(16)),
    "RecoveryPointNotFound",
    /none of that id/,
  );
  const other = await world.run(["image", "restore", "never-seen", "x", ...world.vault]);
  assertFailure(other, "RecoveryPointNotFound", /never-seen/);
  assert.ok(!(await readdir(world.path)).some((name) => name.includes("kluis-part")));
  await assertNothingLost(world);
});

test("cli errors: a store without space keeps every committed point, and goes on when there is some", async () => {
  await using world = await createKeptWorld();
  const disk = new MemoryDisk(32 * MiB);
  const prng = createPrng(testSeed() + 1);
  for (let at = 0; at < 24 * MiB; at += MiB) disk.write(at, prng.bytes(MiB));
  await writeRawImage(world.at("big.raw"), disk);
  await mkdir(world.at("small"));
  const shell =
    'mount -t tmpfs -o size=8m none small && shift && mkdir small/vault && cp -a vault small/ && "$@"; ' +
    "code=$?; cp -a small/vault after; exit $code";
  const behind = [
    "unshare",
    ...(isRoot ? ["-m"] : ["-U", "-r", "-m"]),
    "sh",
    "-c",
    shell,
    "sh",
    "-",
  ];
  const words = ["image", "backup", "big.raw", "--store", "small/vault", "--key-file", "key"];
  assertFailure(await world.run(words, { behind }), "StoreNoSpace", /big|object|space/);
  const after = ["--store", world.at("after"), "--key-file", world.at("key")];
  assert.deepEqual(await world.json<PointsOutput>(["image", "list", ...after]), world.kept);
  await world.ok(["image", "restore", "a.raw", "b.raw", ...after]);
  await mustRun("qemu-img", ["compare", world.at("a.raw"), world.at("b.raw")]);
  await world.ok(["image", "backup", "big.raw", ...after]);
  const report = await world.json<VerifyOutput>(["image", "verify", ...after]);
  assert.equal(report.verdict, "sound");
  assert.equal(report.points.length, 2);
});

test("cli errors: a target without space is removed, and the vault is intact", async () => {
  await using world = await createKeptWorld();
  await mkdir(world.at("small"));
  const shell =
    'mount -t tmpfs -o size=512k none small && shift && "$@"; code=$?; ls -A small; exit $code';
  const behind = [
    "unshare",
    ...(isRoot ? ["-m"] : ["-U", "-r", "-m"]),
    "sh",
    "-c",
    shell,
    "sh",
    "-",
  ];
  for (const target of ["small/out.raw", "small/out.qcow2"]) {
    const words = ["image", "restore", "a.raw", target, ...world.vault];
    assertFailure(await world.run(words, { behind }), "TargetNoSpace", /no space|No space/);
  }
  await assertNothingLost(world);
});

test("cli errors: with --output json the error is one document, with KLUIS_DEBUG there is a stack", async () => {
  await using world = await createWorld({ withVault: false });
  const words = ["image", "list", "--store", "nowhere", "--key-file", "key"];
  await writeFile(world.at("key"), "kluis-key-v1 none\n", { mode: 0o600 });
  const json = await world.run([...words, "--output", "json"]);
  assert.equal(json.stdout, "");
  const error = parseError(json);
  assert.equal(error.kind, "error");
  assert.equal(error.code, "ArgumentInvalid");
  assert.equal(error.exit, json.code);
  const debug = await world.run(words, { variables: { KLUIS_DEBUG: "1" } });
  assert.match(debug.stderr, /\n\s+at /);
});

test("cli errors: damage in the vault is named, with the points and ranges that it touches", async () => {
  await using world = await createKeptWorld();
  const packs = (await readdir(world.at("vault/packs"), { recursive: true })).filter(
    (name) => name.length > 64,
  );
  const path = world.at(`vault/packs/${packs[0] ?? ""}`);
  const bytes = await readFile(path);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  await mustRun("chmod", ["600", path]);
  await writeFile(path, bytes);
  const verify = await world.run(["image", "verify", ...world.vault, "--output", "json"]);
  assert.equal(verify.code, 14);
  const report = JSON.parse(verify.stdout) as VerifyOutput;
  assert.equal(report.verdict, "damaged");
  const [disk] = report.points[0]?.disks ?? [];
  assert.ok((disk?.damagedBytes ?? 0) >= 256 * 1024 && (disk?.ranges.length ?? 0) >= 1);
  assert.ok(report.badObjects.some(({ name }) => path.endsWith(name.slice("packs/".length))));
  const restore = await world.run(["image", "restore", "a.raw", "b.raw", ...world.vault]);
  assertFailure(restore, "ObjectCorrupt", /packs\//);
  await assert.rejects(stat(world.at("b.raw")), "a restore that failed leaves no target");
});
