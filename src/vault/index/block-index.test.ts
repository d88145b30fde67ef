// Goal: the index finds exactly what is in the vault, at the right place, whatever happens to the
// local cache, and two processes may share one cache.
// Method: a model in plain Maps beside the index; seeded random operations with restarts, a second
// index on the same folder, and damage to any byte of any cache file; then single cases.
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { present } from "#base/assert.ts";
import { concatBytes, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { containerHeaderBytes } from "#formats/container.ts";
import { idBytes } from "#formats/geometry.ts";
import {
  encodeIndexSegment,
  type IndexPack,
  type IndexPackColumns,
  parseIndexSegment,
  toIndexColumns,
} from "#formats/index-segment.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { syntheticKey, syntheticSegment } from "#testing/synthetic-index.ts";
import { type BlockIndex, type IndexOptions, openIndex } from "./block-index.ts";
import type { BlockLocation } from "./entry-reader.ts";

/** The segments of a vault, and where each id lies. */
class Model {
  readonly random: SeededRandom;
  readonly segments = new Map<string, Uint8Array>();
  readonly lost = new Set<string>();
  readonly places = new Map<string, string[]>();
  readonly pending: IndexPack[] = [];
  reads = 0;

  constructor(random: SeededRandom) {
    this.random = random;
  }

  readonly readSegment = async (name: Uint8Array): Promise<IndexPackColumns[]> => {
    this.reads++;
    await Promise.resolve();
    const text = this.segments.get(toHex(name));
    if (text === undefined || this.lost.has(toHex(name))) {
      throw new KluisError("ObjectNotFound", "Cannot read a segment: it is gone");
    }
    return parseIndexSegment(text);
  };

  names(): Uint8Array[] {
    return [...this.segments.keys()].map((name) => new Uint8Array(Buffer.from(name, "hex")));
  }

  /** A pack of random shape; some of its ids are in other packs too. */
  createPack(entriesMin = 0): IndexPack {
    const { random } = this;
    const type = random.pick(["pack", "mapPack"] as const);
    const frames: IndexPack["frames"][number][] = [];
    const entries: IndexPack["entries"][number][] = [];
    const known = [...this.places.keys()];
    for (let frame = random.integer(1, 6); frame > 0; frame--) {
      let offsetBytes = 0;
      for (let entry = random.integer(entriesMin, 60); entry > 0; entry--) {
        const lengthBytes = random.integer(1, 4000);
        const id =
          known.length > 0 && random.chance(0.02)
            ? new Uint8Array(Buffer.from(random.pick(known), "hex"))
            : random.bytes(idBytes);
        offsetBytes += random.integer(0, 10);
        entries.push({ id, frame: frames.length, offsetBytes, lengthBytes });
        offsetBytes += lengthBytes;
      }
      const plainBytes = offsetBytes + 1;
      const sealedBytes = random.chance(0.5) ? plainBytes + 32 : random.integer(33, 9000);
      const codec = sealedBytes === plainBytes + 32 ? "stored" : "zstd";
      frames.push({ sealedBytes, plainBytes, codec });
    }
    const [name, salt] = [random.bytes(32), random.bytes(32)];
    return { type, name, salt, epoch: random.integer(1, 3), frames, entries };
  }

  /** Notes that a pack is to be found. */
  publish(pack: IndexPack): void {
    for (const entry of pack.entries) {
      const places = this.places.get(toHex(entry.id)) ?? [];
      places.push(placeOf(pack, entry));
      this.places.set(toHex(entry.id), places);
    }
  }

  /** Puts a segment into the vault. */
  put(packs: readonly IndexPack[]): Uint8Array {
    const name = this.random.bytes(32);
    this.segments.set(toHex(name), encodeIndexSegment(packs));
    return name;
  }
}

function placeOf(pack: IndexPack, entry: IndexPack["entries"][number]): string {
  const before = pack.frames.slice(0, entry.frame);
  const frame = present(pack.frames[entry.frame], "the frame of an entry");
  return describe({
    pack,
    frame: entry.frame,
    frameOffsetBytes: before.reduce((sum, one) => sum + one.sealedBytes, containerHeaderBytes),
    frameSealedBytes: frame.sealedBytes,
    framePlainBytes: frame.plainBytes,
    codec: frame.codec,
    offsetBytes: entry.offsetBytes,
    lengthBytes: entry.lengthBytes,
  });
}

function describe(location: BlockLocation): string {
  const { pack, ...place } = location;
  const { type, name, salt, epoch } = pack;
  return JSON.stringify([type, toHex(name), toHex(salt), epoch, place]);
}

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "kluis-index-test-"));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Where the first id that the index lacks starts in `ids`. */
function firstMissing(index: BlockIndex, ids: Uint8Array): number | undefined {
  for (let at = 0; at < ids.length; at += idBytes) if (!index.has(ids, at)) return at;
  return undefined;
}

function open(model: Model, options: Partial<IndexOptions> = {}): Promise<BlockIndex> {
  const { readSegment, random } = model;
  return openIndex({ segmentNames: model.names(), readSegment, random, ...options });
}

/** Every id is found where it is, and no other is. */
async function assertSame(index: BlockIndex, model: Model, share = 1): Promise<void> {
  for (const [id, places] of model.places) {
    if (share < 1 && !model.random.chance(share)) continue;
    const bytes = new Uint8Array(Buffer.from(id, "hex"));
    const location = await index.locate(bytes);
    assert.ok(location !== undefined && places.includes(describe(location)), `id ${id}`);
    assert.ok(index.has(bytes), "what was found is there");
    const other = bytes.map((byte, at) => (at === idBytes - 1 ? byte ^ 1 : byte));
    assert.equal(await index.locate(other), undefined, "an id that differs in its last bit");
    assert.equal(index.has(other), false);
  }
  assert.equal(await index.locate(model.random.bytes(idBytes)), undefined);
}

/** Changes one file of the folder in a random way; the vault is as it was. */
async function damage(folder: string, random: SeededRandom): Promise<string> {
  const names = (await readdir(folder)).sort();
  if (names.length === 0) return "nothing";
  const path = join(folder, random.pick(names));
  const kind = random.pick(["flip", "cut", "empty", "remove", "zero", "extend"] as const);
  const bytes = new Uint8Array(await readFile(path));
  const at = random.integer(0, Math.max(0, bytes.length - 1));
  if (kind === "remove") await rm(path);
  else if (kind === "cut") await truncate(path, at);
  else if (kind === "empty") await truncate(path, 0);
  else if (kind === "extend") await writeFile(path, [bytes, random.bytes(random.integer(1, 5000))]);
  else if (kind === "zero") await writeFile(path, bytes.fill(0, at, at + random.integer(1, 9000)));
  else {
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.integer(0, 7));
    await writeFile(path, bytes);
  }
  return `${kind} ${path} at ${at}`;
}

/** Puts a segment of so many of the packs that wait for one. */
async function addWaiting(index: BlockIndex, model: Model, count: number): Promise<void> {
  const packs = model.pending.splice(0, count);
  await index.addSegment(model.put(packs), packs);
  for (const pack of packs) model.publish(pack);
}

async function runModel(label: string, folder: string, steps: number): Promise<void> {
  const random = createSeededRandom(label);
  const model = new Model(random);
  const options = { cacheDirectory: folder, pageCacheBytes: 8 * 4096 };
  let index = await open(model, options);
  for (let step = 0; step < steps; step++) {
    const action = random.integer(0, 9);
    if (action <= 2) {
      // Durable, but nobody may build on it before a segment names it.
      model.pending.push(model.createPack());
    } else if (action <= 4) {
      await addWaiting(index, model, random.integer(0, model.pending.length));
    } else if (action === 5) {
      const packs = [model.createPack()];
      model.put(packs);
      for (const pack of packs) model.publish(pack);
      await index.refresh(model.names());
    } else if (action === 6) {
      if (model.pending.length > 0) await addWaiting(index, model, model.pending.length);
      if (random.chance(0.7)) await index.close();
      if (random.chance(0.5)) await damage(folder, random);
      index = await open(model, options);
    } else if (action === 7) {
      const other = await open(model, options);
      await assertSame(other, model, 0.05);
      await other.close();
    } else {
      await damage(folder, random);
    }
    await assertSame(index, model, 0.2);
    assert.equal(index.statistics.segments, model.segments.size, "each segment is in once");
  }
  await assertSame(index, model);
  await index.close();
  const again = await open(model, options);
  const seen = new Set<string>();
  for await (const pack of again.packs()) seen.add(toHex(pack.name));
  const waiting = new Set(model.pending.map((pack) => toHex(pack.name)));
  for (const text of model.segments.values()) {
    for (const { name } of parseIndexSegment(text)) {
      assert.ok(seen.has(toHex(name)));
      assert.ok((await again.entriesOf(name)) !== undefined && !waiting.has(toHex(name)));
    }
  }
  await again.close();
}

const modelRuns = process.env["KLUIS_LONG"] === "1" ? 300 : 6;

for (let run = 0; run < modelRuns; run++) {
  test(`block index: agrees with the model when its cache is damaged, run ${run}`, async () => {
    await withFolder((folder) => runModel(`index model ${run}`, folder, 60));
  });
}

test("block index: opens from its snapshot when nothing was damaged", async () => {
  await withFolder(async (folder) => {
    const model = new Model(createSeededRandom("index snapshot"));
    const key = syntheticKey("index snapshot");
    const segments = [0, 1, 2].map((at) => syntheticSegment(key, at * 50_000, 50_000));
    const readSegment = (name: Uint8Array): Promise<IndexPackColumns[]> => {
      model.reads++;
      const found = segments.find((segment) => toHex(segment.name) === toHex(name));
      return Promise.resolve(present(found, "a segment").packs);
    };
    const segmentNames = segments.map(({ name }) => name);
    const options = { cacheDirectory: folder, readSegment };
    await (await openIndex({ ...options, segmentNames: segmentNames.slice(0, 2) })).close();
    assert.deepEqual((await readdir(folder)).length, 3, "two segments and the table");
    assert.equal((await stat(folder)).mode & 0o777, 0o700);
    for (const name of await readdir(folder)) {
      assert.equal((await stat(join(folder, name))).mode & 0o777, 0o600);
    }
    const index = await openIndex({ ...options, segmentNames });
    assert.equal(model.reads, 3, "each segment is read once");
    assert.equal(index.statistics.rebuiltSegments, 1);
    for (const { packs } of segments) {
      for (const pack of packs) assert.equal(firstMissing(index, pack.ids), undefined);
    }
    await index.close();
    const less = await openIndex({ ...options, segmentNames: segmentNames.slice(1) });
    const gone = present(segments[0]?.packs[0], "a pack").ids.subarray(0, idBytes);
    assert.equal(less.has(gone), false, "a segment that left the vault is not in the index");
    assert.equal(less.statistics.entries, 100_000);
    await less.close();
  });
});

test("block index: trusts no snapshot of which anything changed", async () => {
  await withFolder(async (folder) => {
    const random = createSeededRandom("index snapshot damage");
    const key = syntheticKey("index snapshot damage");
    const { name, packs } = syntheticSegment(key, 0, 70_000);
    const options = {
      segmentNames: [name],
      readSegment: () => Promise.resolve(packs),
      cacheDirectory: folder,
    };
    await (await openIndex(options)).close();
    const path = join(folder, "table");
    const whole = new Uint8Array(await readFile(path));
    const ids = concatBytes(packs.map((pack) => pack.ids));
    for (let round = 0; round < 24; round++) {
      const changed = whole.slice();
      const at = round < 4 ? round * 8 : random.integer(0, whole.length - 1);
      if (round % 3 === 2) await writeFile(path, whole.subarray(0, at));
      else {
        changed[at] = (changed[at] ?? 0) ^ (1 << random.integer(0, 7));
        await writeFile(path, round === 4 ? concatBytes([whole, Uint8Array.of(0)]) : changed);
      }
      const index = await openIndex(options);
      assert.equal(firstMissing(index, ids), undefined, `byte ${at} of the snapshot changed`);
      assert.equal(index.statistics.entries, 70_000);
      await index.close();
      assert.deepEqual(new Uint8Array(await readFile(path)), whole, "a good one was written");
    }
  });
});

test("block index: keeps a segment out of its snapshot while it is lost", async () => {
  await withFolder(async (folder) => {
    const model = new Model(createSeededRandom("index lost snapshot"));
    const names: Uint8Array[] = [];
    for (let at = 0; at < 66; at++) {
      const pack = model.createPack(1);
      names.push(model.put([pack]));
      model.publish(pack);
    }
    const options = { cacheDirectory: folder };
    await (await open(model, options)).close();
    await rm(join(folder, "table"));
    const name = toHex(present(names[0], "a name"));
    const path = join(folder, name);
    const bytes = new Uint8Array(await readFile(path));
    await writeFile(path, bytes.fill(1, 4096, 4100));
    model.lost.add(name);
    const index = await open(model, options);
    assert.equal(index.lost.length, 1);
    const [gone] = parseIndexSegment(present(model.segments.get(name), "a segment"));
    const { ids } = present(gone, "a pack");
    for (let at = 0; at < ids.length; at += idBytes) {
      const id = ids.slice(at, at + idBytes);
      // Some ids are in packs of other segments too.
      const isElsewhere = present(model.places.get(toHex(id)), "its places").length > 1;
      assert.equal((await index.locate(id)) !== undefined, isElsewhere);
      assert.equal(index.has(id), isElsewhere);
    }
    assert.equal(index.lost.length, 1, "it is not read again");
    await index.close();
    model.lost.clear();
    const healed = await open(model, options);
    await assertSame(healed, model);
    await healed.close();
  });
});

test("block index: goes on when its folder is removed", async () => {
  await withFolder(async (folder) => {
    for (const temporaryDirectory of [folder, undefined]) {
      const model = new Model(createSeededRandom("index removed"));
      for (let at = 0; at < 70; at++) {
        const pack = model.createPack(1);
        model.put([pack]);
        model.publish(pack);
      }
      const cacheDirectory = join(folder, "cache");
      const options = temporaryDirectory === undefined ? {} : { temporaryDirectory };
      const index = await open(model, { cacheDirectory, pageCacheBytes: 8 * 4096, ...options });
      await rm(cacheDirectory, { recursive: true });
      await assertSame(index, model);
      await index.close();
    }
  });
});

test("block index: finds an id that shares its first bits with a thousand others", async () => {
  const random = createSeededRandom("index crowd");
  const [name, salt] = [random.bytes(32), random.bytes(32)];
  const frames = [{ sealedBytes: 200, plainBytes: 5000, codec: "zstd" as const }];
  const id = random.bytes(idBytes);
  const entries = Array.from({ length: 3000 }, (_, offsetBytes) => ({
    id: offsetBytes === 2900 ? id.with(idBytes - 1, (id[idBytes - 1] ?? 0) ^ 1) : id,
    frame: 0,
    offsetBytes,
    lengthBytes: 1,
  }));
  const pack = toIndexColumns({ type: "pack", name, salt, epoch: 1, frames, entries });
  const readSegment = (): Promise<IndexPackColumns[]> => Promise.resolve([pack]);
  const index = await openIndex({ segmentNames: [name], readSegment });
  assert.equal(index.lookup(id)?.offsetBytes, 0);
  assert.equal(index.lookup(present(entries[2900], "an entry").id)?.offsetBytes, 2900);
  await index.close();
});

test("block index: works from a spool or memory when there is no folder", async () => {
  await withFolder(async (folder) => {
    const blocked = join(folder, "blocked");
    await writeFile(blocked, "a file where a folder should be");
    for (const options of [
      {},
      { temporaryDirectory: folder },
      { cacheDirectory: blocked },
      { cacheDirectory: join(blocked, "below"), temporaryDirectory: folder },
      { cacheDirectory: blocked, temporaryDirectory: join(folder, "absent") },
    ]) {
      const model = new Model(createSeededRandom("index without a folder"));
      for (let at = 0; at < 3; at++) {
        const pack = model.createPack();
        model.put([pack]);
        model.publish(pack);
      }
      const index = await open(model, options);
      await assertSame(index, model);
      assert.equal("cacheDirectory" in options, index.statistics.cacheProblem !== undefined);
      assert.deepEqual(await readdir(folder), ["blocked"], "a spool has no name");
      await index.close();
    }
  });
});

test("block index: leaves a segment out when it is lost, and tells it", async () => {
  await withFolder(async (folder) => {
    const model = new Model(createSeededRandom("index lost"));
    const packs = [model.createPack(1), model.createPack(1)];
    const [whole, lost] = packs.map((pack) => model.put([pack]));
    model.publish(present(packs[0], "a pack"));
    model.lost.add(toHex(present(lost, "a name")));
    const index = await open(model, { cacheDirectory: folder });
    assert.deepEqual(
      index.lost.map(({ name }) => toHex(name)),
      [...model.lost],
    );
    await assertSame(index, model);
    const running = await open(model, { cacheDirectory: folder });
    model.lost.add(toHex(present(whole, "a name")));
    await writeFile(join(folder, toHex(present(whole, "a name"))), "damaged");
    const entry = present(packs[0]?.entries[0], "an entry");
    await index.close();
    assert.equal(await running.locate(entry.id), undefined);
    assert.equal(running.has(entry.id), false);
    assert.equal(running.lost.length, 2);
    await running.close();
    const after = await open(model, { cacheDirectory: folder });
    assert.equal(after.lost.length, 2);
    assert.equal(await after.locate(entry.id), undefined);
    assert.equal(after.has(entry.id), false);
    await after.close();
  });
});

test("block index: repairs or says Busy when the cache is damaged under it", async () => {
  await withFolder(async (folder) => {
    const model = new Model(createSeededRandom("index damage"));
    const pack = model.createPack(1);
    const name = model.put([pack]);
    model.publish(pack);
    const first = await open(model, { cacheDirectory: folder });
    await first.close();
    const index = await open(model, { cacheDirectory: folder });
    const path = join(folder, toHex(name));
    const bytes = new Uint8Array(await readFile(path));
    bytes[4096 + 5] = (bytes[4096 + 5] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const entry = present(pack.entries[0], "an entry");
    assert.throws(
      () => index.lookup(entry.id),
      (error) => isKluisError(error, "Busy"),
    );
    assert.equal(index.has(entry.id), false, "stored once more rather than taken on trust");
    assert.ok((await index.locate(entry.id)) !== undefined);
    assert.ok(index.has(entry.id) && index.lookup(entry.id) !== undefined);
    await index.close();
  });
});

test("block index: refuses when the index would take more memory than it may", async () => {
  const key = syntheticKey("budget");
  const { name, packs } = syntheticSegment(key, 0, 20_000);
  const options = { segmentNames: [name], readSegment: () => Promise.resolve(packs) };
  await assert.rejects(
    openIndex({ ...options, memoryBytesMax: 17_000_000 }),
    (error) => isKluisError(error, "ConfigInvalid") && /20000 entries/.test(error.message),
  );
});
