/**
 * Goal: keys are added, removed, rotated and proved from the command line; a key in a key vault opens a
 * vault as long as its owner lets it; the recovery kit of the first day restores what was written after
 * every change; a creation that was killed is run again. Method: the real command, keys in folders, and the emulator of a key vault.
 */
import assert from "node:assert/strict";
import { readdir, readFile, rm, stat } from "node:fs/promises";
import { test } from "node:test";

import type {
  HostKeysOutput,
  KeyAddedOutput,
  KeyProofOutput,
  KeyRemovedOutput,
  KeysOutput,
  KeysRotatedOutput,
  RestoreOutput,
  VaultCreatedOutput,
} from "#contract/cli-output.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { mustRun, writeRawImage } from "../integration/disk-images.ts";
import { emulatorClient, startKeyVaultEmulator } from "../integration/key-vault-emulator.ts";
import { assertFailure, type CliWorld, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;

async function writeDisk(world: CliWorld): Promise<void> {
  const disk = new MemoryDisk(2 * MiB);
  disk.write(0, createPrng(testSeed()).bytes(MiB));
  await writeRawImage(world.at("a.raw"), disk);
}

const keysOf = (world: CliWorld): Promise<KeysOutput> =>
  world.json<KeysOutput>(["vault", "key", "list", "--store", "vault"]);

test("cli keys: the kit of the first day restores what is written after every change of keys", async () => {
  await using world = await createWorld();
  const { vault } = world;
  const kit = await readFile(world.recoveryKeyFile, "utf8");
  assert.match(kit, /^[0-9A-Z-]{44}\n\nRecovery kit\n/);
  assert.match(kit, /kluis rescue check --store \S+ --recovery-key-file -/);
  assert.equal((await stat(world.recoveryKeyFile)).mode & 0o777, 0o600);
  await writeDisk(world);
  await world.backup("a.raw");

  const rotated = await world.json<KeysRotatedOutput>(["vault", "key", "rotate", ...vault]);
  assert.deepEqual([rotated.epoch, rotated.record, rotated.rewrapped], [2, 2, []]);
  const add = ["vault", "key", "add", ...vault, "--new-key-file", world.at("second")];
  const added = await world.json<KeyAddedOutput>(add);
  const digits = added.name.slice("keys/".length, "keys/".length + 8);
  const removed = await world.json<KeyRemovedOutput>(["vault", "key", "remove", digits, ...vault]);
  assert.deepEqual([removed.names, removed.epoch], [[added.name], 3]);
  const gone = ["image", "list", "--store", "vault", "--key-file", world.at("second")];
  assertFailure(await world.run(gone), "KeyWrong", /none of its key slots/);

  const recovery = (await keysOf(world)).keys.find(({ type }) => type === "recovery");
  assert.deepEqual([recovery?.isValid, recovery?.survivesHost], [true, true]);
  const last = await world.run(["vault", "key", "remove", recovery?.name ?? "", ...vault]);
  assertFailure(last, "KeyLast", /lies on the host/);
  const unknown = await world.run(["vault", "key", "remove", "0000000", ...vault]);
  assertFailure(unknown, "ArgumentInvalid", /8 to 64 hex digits/);

  await writeDisk(world);
  await world.backup("a.raw");
  const store = ["--store", "vault", "--recovery-key-file", "-"];
  const proof = await world.json<KeyProofOutput>(["rescue", "check", ...store], { stdin: kit });
  assert.deepEqual(proof.failed, []);
  assert.deepEqual([proof.type, proof.survivesHost, proof.record], ["recovery", true, 4]);
  const found = proof.epochs.map(({ epoch, object }) => [epoch, object?.split("/")[0]]);
  assert.deepEqual(found, [
    [1, "points"],
    [2, undefined],
    [3, "points"],
  ]);
  const out = ["--directory", world.at(".")];
  const restore = ["rescue", "restore", world.at("a.raw"), ...store, ...out];
  const { disks } = await world.json<RestoreOutput>(restore, { stdin: kit });
  await mustRun("qemu-img", ["compare", world.at("a.raw"), disks[0]?.target ?? ""]);
});

test("cli keys: local and platform keys open a vault, are wrapped anew, and close it again", async () => {
  await using world = await createWorld({ withVault: false });
  const folder = ["--key-folder", world.at("keys")];
  await world.ok(["key", "create", "local:backups", "--type", "aes", ...folder]);
  const customer = ["--store", "vault", "--customer-key", "local:backups", ...folder];
  const platform = ["--store", "vault", "--platform-key", ...folder];
  const created = await world.ok(["vault", "create", ...customer, "--platform-key"]);
  assert.match(created.stdout, /Keys: customer-key, platform-key, recovery\n/);
  await world.ok(["key", "rotate", "local:backups", ...folder]);
  await world.ok(["key", "rotate", "platform:default", ...folder]);
  const rewrap = ["vault", "key", "rotate", ...customer, "--rewrap", "platform", "--keep-data-key"];
  const rotated = await world.json<KeysRotatedOutput>(rewrap);
  assert.deepEqual([rotated.epoch, rotated.rewrapped.length], [1, 2]);
  // What a timer runs every day changes nothing on all other days.
  const { rewrapped, record } = await world.json<KeysRotatedOutput>(rewrap);
  assert.deepEqual([rewrapped, record], [[], rotated.record]);
  const { keys } = await world.json<HostKeysOutput>(["key", "list", ...folder]);
  assert.deepEqual(
    keys.map(({ key, versions }) => [key, versions.length]),
    [
      ["local:backups", 2],
      ["platform:default", 2],
    ],
  );
  for (const way of [customer, platform]) await world.ok(["vault", "key", "proof", ...way]);
  await world.ok(["key", "disable", "local:backups", ...folder]);
  const refused = await world.run(["image", "list", ...customer]);
  assertFailure(refused, "KeyDenied", /disabled/);
  await world.ok(["key", "enable", "local:backups", ...folder]);
  await world.ok(["key", "delete", "local:backups", ...folder]);
  assertFailure(await world.run(["image", "list", ...customer]), "KeyDenied", /was deleted/);
  await world.ok(["key", "recover", "local:backups", ...folder]);
  await world.ok(["image", "list", ...customer]);
  const other = ["image", "list", "--store", "vault", "--customer-key", "local:other", ...folder];
  assertFailure(await world.run(other), "KeyWrong", /no key slot for this customer key/);
});

test("cli keys: a key in a key vault opens a vault until its owner disables it", async () => {
  await using emulator = await startKeyVaultEmulator();
  await using world = await createWorld({ withVault: false });
  emulator.addVersion("kluis");
  const key = `${emulator.origin}/keys/kluis`;
  const call = {
    variables: {
      NODE_EXTRA_CA_CERTS: emulator.certificateFile,
      AZURE_AUTHORITY_HOST: emulator.origin,
      AZURE_TENANT_ID: emulatorClient.tenantId,
      AZURE_CLIENT_ID: emulatorClient.clientId,
      AZURE_CLIENT_SECRET: emulatorClient.clientSecret,
    },
  };
  const vault = ["--store", "vault", "--customer-key", key];
  await world.ok(["vault", "create", ...vault, "--recovery-key-file", "kit"], call);
  await writeDisk(world);
  await world.ok(["image", "backup", "a.raw", ...vault], call);
  const next = emulator.addVersion("kluis");
  const rotated = await world.json<KeysRotatedOutput>(["vault", "key", "rotate", ...vault], call);
  assert.deepEqual([rotated.epoch, rotated.rewrapped[0]?.key], [2, next]);
  await world.ok(["image", "backup", "a.raw", ...vault], call);
  await world.ok(["image", "verify", ...vault], call);
  emulator.setEnabled("kluis", next, false);
  assertFailure(await world.run(["image", "list", ...vault], call), "KeyDenied", /KeyDisabled/);
  // The kit needs neither the key vault nor its owner.
  await world.ok(["rescue", "verify", "--store", "vault", "--recovery-key-file", "kit"]);
});

test("cli keys: a creation that was killed is run again with the same words", async () => {
  await using world = await createWorld({ withVault: false });
  const create = ["vault", "create", "--key-file", "key", "--recovery-key-file", "kit"];
  await world.ok([...create, "--store", "vault"]);
  const first = await readFile(world.at("kit"), "utf8");
  // What a kill just before the commit leaves: key file, kit, slots and key record.
  await rm(world.at("vault/vault.json"));
  const elsewhere = await world.run([...create, "--store", "another"]);
  assertFailure(elsewhere, "ArgumentInvalid", /it exists/);
  assert.equal(await readFile(world.at("kit"), "utf8"), first, "a kit of another place stays");
  const { vaultId } = await world.json<VaultCreatedOutput>([...create, "--store", "vault"]);
  const kit = await readFile(world.at("kit"), "utf8");
  assert.equal(kit.split("\n")[0], first.split("\n")[0]);
  assert.ok(kit.includes(vaultId) && !first.includes(vaultId));
  await world.ok(["rescue", "check", "--store", "vault", "--recovery-key-file", "kit"]);
  assertFailure(await world.run([...create, "--store", "vault"]), "StoreNotEmpty", /there is one/);
  const parts = (await readdir(world.path)).filter((name) => name.includes("kluis-part"));
  assert.deepEqual(parts, []);
});

test("cli keys: the kit of a recovery key that is added names the place in full", async () => {
  await using world = await createWorld();
  const add = ["vault", "key", "add", "--store", "vault", "--key-file", world.at("key")];
  await world.ok([...add, "--new-recovery-key-file", "kit"]);
  const kit = await readFile(world.at("kit"), "utf8");
  assert.ok(kit.includes(`Store         ${world.at("vault")}\n`), kit.replace(/^\S+/, "…"));
  await world.ok(["rescue", "check", "--store", "vault", "--recovery-key-file", "kit"]);
});
