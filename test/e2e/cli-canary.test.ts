/**
 * Goal: what a guest holds, what files and items are called, and every key stay inside the seal: none of it
 * is in objects of the store or their names, in the cache, in temporary files, in what is printed or in
 * the arguments of any process.
 * Method: the real command on a disk full of one text, with items and keys of other such texts; a scan for
 * each in many spellings, also inside of everything that zstd or zlib unpacks. The same scan over the same
 * store with its seals taken off (by this test, with the keys) must find them all, or it proves nothing.
 */
import assert from "node:assert/strict";
import { createDecipheriv } from "node:crypto";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { test } from "node:test";
import { inflateSync, zstdDecompressSync } from "node:zlib";

import { systemRandom } from "#base/random.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { parseContainerHeader, parseFrameHeader } from "#formats/container.ts";
import { parseStoreName } from "#formats/store-names.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openContainer, sealOf } from "#vault/container/container-reader.ts";
import { toKeyFileSecret } from "#vault/key-secret.ts";
import { containerTypes, type ContainerType, type VaultKeys } from "#vault/keys/vault-keys.ts";
import { openVaultFiles } from "#vault/vault-files.ts";
import { writeRawImage } from "../integration/disk-images.ts";
import { type CliWorld, collect, createWorld } from "./cli.ts";

const MiB = 1024 * 1024;
const sectorBytes = 512;
const unpackedBytesMax = 4 * MiB;

/** A text that nobody else writes. */
function createCanary(what: string): string {
  return `canary-${what}-${Buffer.from(systemRandom.bytes(12)).toString("hex")}`;
}

/** Every spelling of a text or of bytes that a scan looks for. */
function spellingsOf(bytes: Buffer): readonly Buffer[] {
  const texts = [bytes.toString("hex"), bytes.toString("hex").toUpperCase()];
  // In base64 the text begins at one of three places; what its neighbours share is left out.
  for (const shift of [0, 1, 2]) {
    const encoded = Buffer.concat([Buffer.alloc(shift), bytes]).toString("base64");
    const inner = encoded.slice(shift === 0 ? 0 : 4, -4);
    texts.push(inner, inner.replaceAll("+", "-").replaceAll("/", "_"));
  }
  const utf16 = Buffer.from(bytes.toString("latin1"), "utf16le");
  return [bytes, utf16, ...texts.map((text) => Buffer.from(text, "latin1"))];
}

/** A place that is scanned: an object with its name, a file, what was printed. */
interface Place {
  readonly name: string;
  readonly bytes: Buffer;
}

/** Names of the places that hold the text in any spelling, packed or not. */
function scan(places: readonly Place[], needle: Buffer): readonly string[] {
  const spellings = spellingsOf(needle);
  const holds = (bytes: Buffer): boolean => spellings.some((one) => bytes.includes(one));
  return places
    .filter(({ name, bytes }) => [Buffer.from(name), bytes, ...unpack(bytes)].some(holds))
    .map(({ name }) => name);
}

/** Everything that zstd or zlib unpacks from anywhere in `bytes`. */
function unpack(bytes: Buffer): readonly Buffer[] {
  const found: Buffer[] = [];
  const starts = [Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), Buffer.from([0x78, 0x9c])];
  for (const [at, start] of starts.entries()) {
    for (let from = bytes.indexOf(start); from !== -1; from = bytes.indexOf(start, from + 1)) {
      try {
        const unpackAt = at === 0 ? zstdDecompressSync : inflateSync;
        found.push(unpackAt(bytes.subarray(from), { maxOutputLength: unpackedBytesMax }));
      } catch {
        // Two bytes that look like a beginning are none.
      }
    }
  }
  return found;
}

async function readFolder(folder: string): Promise<Place[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const places: Place[] = [];
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    const bytes = entry.isFile() ? await readFile(path) : Buffer.alloc(0);
    places.push({ name: relative(folder, path), bytes });
  }
  return places;
}

/** Runs a command and keeps what it printed and the arguments of every process meanwhile. */
async function runWatched(world: CliWorld, words: readonly string[], seen: Place[]): Promise<void> {
  const child = world.start(words, { variables: { TMPDIR: world.at("tmp") } });
  const result = collect(child);
  const lines = new Set<string>();
  while (child.exitCode === null && child.signalCode === null) {
    for (const pid of await readdir("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      // A process that ended meanwhile has no arguments.
      lines.add(await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => ""));
    }
    seen.push(...(await readFolder(world.at("tmp"))));
  }
  const { code, stdout, stderr } = await result;
  assert.equal(code, 0, stderr);
  const argumentsSeen = [...lines].join("\n");
  assert.ok(argumentsSeen.includes(words.join("\0")), "the watch saw the command itself");
  seen.push({ name: "arguments", bytes: Buffer.from(argumentsSeen, "latin1") });
  seen.push({ name: "printed", bytes: Buffer.from(stdout + stderr) });
}

/** The container with everything in it as it was before it was sealed. */
function withoutSeal(bytes: Buffer, keys: VaultKeys): Buffer {
  const { typeByte, epoch, salt } = parseContainerHeader(bytes, "container");
  const entry = Object.entries(containerTypes).find(([, byte]) => byte === typeByte);
  assert.ok(entry);
  const { key, header } = sealOf(keys, { type: entry[0] as ContainerType, epoch, salt });
  const parts: Buffer[] = [];
  for (let at = 64; at < bytes.byteLength - 16;) {
    const { sealedBytes, frame } = parseFrameHeader(bytes, at, "container");
    const nonce = Buffer.alloc(12);
    nonce.writeUInt32BE(frame, 8);
    const end = at + 16 + sealedBytes;
    const decipher = createDecipheriv("aes-256-gcm", key, nonce)
      .setAAD(Buffer.concat([header, bytes.subarray(at, at + 16)]))
      .setAuthTag(bytes.subarray(end, end + 16));
    parts.push(decipher.update(bytes.subarray(at + 16, end)), decipher.final());
    at = end + 16;
  }
  return Buffer.concat(parts);
}

/** The store as it would be without encryption: seals off, items by their names, slots with their secrets. */
function withoutEncryption(
  places: readonly Place[],
  keys: VaultKeys,
  secret: Uint8Array,
): readonly Place[] {
  return places.flatMap(({ name, bytes }): Place[] => {
    const kind = parseStoreName(name)?.kind;
    if (kind === "slot") return [{ name, bytes: Buffer.from(secret) }];
    if (!bytes.subarray(0, 5).equals(Buffer.from("KLUIS"))) return [{ name, bytes }];
    const plain = withoutSeal(bytes, keys);
    if (kind !== "manifest") return [{ name, bytes: plain }];
    const { content } = openContainer(keys, { name, bytes, type: "manifest" });
    const { itemId } = JSON.parse(Buffer.from(content).toString()) as { readonly itemId: string };
    return [{ name: `points/${itemId}`, bytes: plain }];
  });
}

test("cli canary: content, names and keys are nowhere outside of the seal", async () => {
  await using world = await createWorld({ withVault: false });
  await mkdir(world.at("tmp"));
  const [content, file, item] = ["content", "file", "item"].map(createCanary) as [
    string,
    string,
    string,
  ];
  const disk = new MemoryDisk(3 * MiB);
  // A region that is packed well, and one in which the text stands between noise.
  for (let at = 0; at < MiB; at += sectorBytes) disk.write(at, Buffer.from(content));
  for (let at = MiB; at < 2 * MiB; at += 64 * 1024) {
    disk.write(at, systemRandom.bytes(64 * 1024));
    disk.write(at + 1000, Buffer.from(content));
  }
  const image = `${file}.raw`;
  await writeRawImage(world.at(image), disk);
  const vault = ["--store", "vault", "--key-file", "key"];
  const seen: Place[] = [];
  await runWatched(world, ["vault", "create", ...vault, "--recovery-key-file", "kit"], seen);
  await runWatched(world, ["image", "backup", image, ...vault], seen);
  await runWatched(world, ["vault", "key", "rotate", ...vault], seen);
  disk.write(2 * MiB, Buffer.from(content));
  await writeRawImage(world.at(`second-${image}`), disk);
  await runWatched(world, ["image", "backup", `second-${image}`, ...vault, "--item", item], seen);
  await runWatched(world, ["image", "verify", ...vault], seen);

  const secret = toKeyFileSecret(await readFile(world.at("key"))).material;
  const recoveryKey = (await readFile(world.at("kit"), "utf8")).split("\n")[0] ?? "";
  const store = await readFolder(world.at("vault"));
  const cache = await readFolder(world.at(".cache/kluis"));
  const outside = [...store, ...cache.filter(({ name }) => !name.startsWith("compiled"))];
  const opened = await openVaultFiles(
    await openFileStore(world.at("vault"), { create: false }),
    toKeyFileSecret(await readFile(world.at("key"))),
  );
  const masterKeys = opened.keys.epochs.map(({ masterKey }) => Buffer.from(masterKey));
  const secrets = [Buffer.from(secret), Buffer.from(recoveryKey), ...masterKeys];
  for (const needle of [content, file, item].map((text) => Buffer.from(text))) {
    assert.deepEqual(scan(outside, needle), [], "nothing in the store or the cache");
  }
  for (const needle of secrets) {
    assert.deepEqual(scan([...outside, ...seen], needle), [], "no key anywhere");
  }
  // Names of files and items are what the user typed and asked to see; the content is not.
  assert.deepEqual(scan(seen, Buffer.from(content)), [], "no content is printed or left over");

  const open = withoutEncryption(store, opened.keys, secret);
  const found = [content, file, item].map((text) => scan(open, Buffer.from(text)).length);
  const foundKeys = scan(open, Buffer.from(secret)).length;
  assert.ok(
    [...found, foundKeys].every((count) => count > 0),
    "the scan finds what is not sealed",
  );
  console.log(
    `${outside.length} objects and cache files, ${seen.length} outputs, argument lists and temporary files: ` +
      `0 hits; without encryption ${[...found, foundKeys].join(", ")} objects hold the four texts`,
  );
});
