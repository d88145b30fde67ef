/**
 * Goal: docs/design/vault-format.md says all that a reader needs. Method: disks that are written,
 * zeroed and resized at random are backed up into a folder, in full, by exact changes and by
 * checksums; a reader written from that page alone, which shares no code with src, restores every
 * point from the folder and the printed recovery key, and every byte is compared.
 */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { openFileStore } from "#drivers/store/file-store.ts";
import { createMemoryReader, MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { takesAll } from "#testing/slice.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { createKeyFileSecret } from "#vault/key-secret.ts";
import type { Vault } from "#vault/vault.ts";
import { createVaultFiles } from "#vault/vault-files.ts";
import type { DiskInput } from "#vault/writer/point-writer.ts";
import { FormatViolation } from "../independent-reader/byte-reader.ts";
import { parseRecoveryKey } from "../independent-reader/keys.ts";
import { VaultReader } from "../independent-reader/vault-reader.ts";

const page = 4096;
const mib = 1024 * 1024;
const rounds = process.env["KLUIS_LONG"] === "1" ? 60 : takesAll ? 10 : 5;
const random = createSeededRandom("independent reader");

/** Writes, zeros and, now and then, another size; at times the disk ends inside of a page. */
function change(disk: MemoryDisk): MemoryDisk {
  const bytesMax = random.integer(0, 1) === 0 ? 5 * mib : 36 * mib;
  const changed =
    random.integer(0, 3) === 0
      ? disk.resized(512 * random.integer(1, bytesMax / 512))
      : disk.snapshot();
  for (let writes = random.integer(0, 24); writes > 0; writes--) {
    const offset = page * random.integer(0, Math.ceil(changed.sizeBytes / page) - 1);
    const wanted = page * (random.integer(0, 9) === 0 ? random.integer(1, 300) : 1);
    const length = Math.min(wanted, changed.sizeBytes - offset);
    const kind = random.integer(0, 3);
    if (kind === 0) changed.zero(offset, length);
    else if (kind === 1) changed.write(offset, new Uint8Array(length).fill(random.integer(0, 2)));
    else changed.write(offset, random.bytes(length));
  }
  return changed;
}

/** How the writer learns what changed: everything, by checksums, or exactly. */
async function planInput(
  vault: Vault,
  name: string,
  { before, now }: { readonly before: MemoryDisk; readonly now: MemoryDisk },
): Promise<DiskInput> {
  const reader = createMemoryReader(now);
  const newest = await vault.readNewestPoint("item");
  const disk = newest?.disks.find((candidate) => candidate.name === name);
  const kind = random.integer(0, 4);
  if (disk === undefined || kind === 0) return { name, reader, tracking: "full" };
  const base = { disk, reader: createMemoryReader(before) };
  if (kind === 1 || before.sizeBytes !== now.sizeBytes) {
    const { changes } = await vault.findChanges(reader, disk, { name });
    return { name, reader, tracking: "checksum", increment: { base, changes } };
  }
  const increment = { base, changes: now.changesSince(before) };
  return { name, reader, tracking: "snapshot-difference", increment };
}

test("independent reader: restores every point of random disks from the document alone", async () => {
  await using folder = await createTempFolder();
  const place = join(folder.path, "vault");
  const store = await openFileStore(place, { create: true });
  const { secret } = createKeyFileSecret(random);
  const { keys, recoveryKey } = await createVaultFiles(store, { secrets: [secret], random });
  assert.ok(recoveryKey !== undefined);
  await using vault = await openTestVault({ store, keys });

  const kept = new Map<string, readonly MemoryDisk[]>();
  let disks: readonly MemoryDisk[] = [new MemoryDisk(6 * mib + 512), new MemoryDisk(34 * mib)];
  for (let round = 0; round < rounds; round++) {
    // The first point is of zeros alone: disks without a map.
    const changed = round === 0 ? disks : disks.map(change);
    const inputs: DiskInput[] = [];
    for (const [at, now] of changed.entries()) {
      inputs.push(await planInput(vault, `disk${at}`, { before: disks[at] ?? now, now }));
    }
    const pointId = `${round.toString(16).padStart(12, "0")}-0123456789abcdef`;
    const last = [...kept.keys()].at(-1);
    const point = {
      pointId,
      itemId: "item",
      itemName: "item",
      takenAtMs: round,
      ...(last === undefined ? {} : { basePointId: last }),
    };
    await vault.writePoint({ point: { ...point, consistency: "crash" }, disks: inputs });
    kept.set(pointId, changed);
    disks = changed;
  }

  const reader = new VaultReader(place, recoveryKey);
  const points = reader.points();
  assert.deepEqual(
    points.map(({ pointId }) => pointId),
    [...kept.keys()],
  );
  for (const point of points) {
    for (const [at, disk] of point.disks.entries()) {
      const target = join(folder.path, `${point.pointId}-${disk.name}`);
      reader.restore(disk, target);
      const expected = kept.get(point.pointId)?.[at];
      assert.ok(expected !== undefined);
      const isEqual = Buffer.compare(await readFile(target), expected.bytes()) === 0;
      assert.ok(isEqual, `${disk.name} of ${point.pointId} differs`);
    }
  }
});

test("independent reader: refuses a recovery key with a wrong letter", () => {
  const key = "MB0Y-YXNB-5NFV-9Z40-WEV0-712V-FHVD-P1BY-29Z1";
  assert.equal(parseRecoveryKey(key).length, 20);
  assert.throws(() => parseRecoveryKey(key.replace("MB0Y", "MB1Y")), FormatViolation);
});

test("independent reader: shares no code with Kluis and stays small", async () => {
  const folder = join(import.meta.dirname, "../independent-reader");
  const allowed = /^(?:node:|@noble\/hashes\/blake3\.js$|\.\/[a-z-]+\.ts$)/;
  let lines = 0;
  for (const name of await readdir(folder)) {
    const text = await readFile(join(folder, name), "utf8");
    lines += text.split("\n").length;
    for (const [, module = ""] of text.matchAll(/from "([^"]+)"/g)) {
      assert.match(module, allowed, `${name} imports ${module}`);
    }
  }
  assert.ok(lines <= 600, `the reader has ${lines} lines`);
});
