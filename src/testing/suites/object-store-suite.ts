/** What every ObjectStore must do; each driver and each wrapper of the fault kit runs this suite. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { allocateAligned } from "#base/aligned-memory.ts";
import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { createSeededRandom, type SeededRandom } from "../seeded-random.ts";

/** An empty place with a store on it. */
export interface ObjectStoreFixture extends AsyncDisposable {
  readonly store: ObjectStore;
  /** Another store on the same place, as another process would open it. */
  readonly openAgain: () => Promise<ObjectStore>;
}

/** How the suite is run on one driver. */
export interface ObjectStoreSuite {
  /** Makes an empty place. */
  readonly open: () => Promise<ObjectStoreFixture>;
}

const MIB = 1024 * 1024;
const badNames = [
  ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.b", ".a", "A", "a b", "a\\b"],
  ["a\0b", "é", "a\n", "tmp", "tmp/a", "a".repeat(201), "%2e%2e/a", "c:/a"],
].flat();

/** Declares the tests of the suite for the driver called `name`. */
export function testObjectStore(name: string, suite: ObjectStoreSuite): void {
  declareObjectTests(name, suite);
  declareRangeTests(name, suite);
  declareRaceTests(name, suite);
  declareListingTests(name, suite);
  declareArgumentTests(name, suite);
  declareModelTest(name, suite);
}

/** Names and sizes below `prefix`, in order; asserts that none comes twice. */
export async function listAll(store: ObjectStore, prefix = ""): Promise<Map<string, number>> {
  const found: [string, number][] = [];
  for await (const { name, sizeBytes } of store.list(prefix)) found.push([name, sizeBytes]);
  found.sort(([a], [b]) => (a < b ? -1 : 1));
  const sizes = new Map(found);
  assert.equal(sizes.size, found.length, "a listing names every object once");
  return sizes;
}

function declareObjectTests(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: an object comes back whole, also to others`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const random = createSeededRandom(`${name} objects`);
    const parts = [random.bytes(3), new Uint8Array(0), random.bytes(70_000), random.bytes(1)];
    assert.equal(await store.put("packs/00/a.b_c-d", parts), "created");
    assert.equal(await store.put("empty", []), "created");
    const whole = concatBytes(parts);
    for (const one of [store, await fixture.openAgain()]) {
      assert.ok(bytesEqual(await one.get("packs/00/a.b_c-d"), whole));
      assert.equal((await one.get("empty")).byteLength, 0);
      assert.deepEqual(await one.stat("packs/00/a.b_c-d"), {
        name: "packs/00/a.b_c-d",
        sizeBytes: whole.byteLength,
      });
      assert.equal((await one.stat("empty"))?.sizeBytes, 0);
    }
  });

  test(`${name}: a name that exists keeps its content`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const first = Uint8Array.of(1, 2, 3);
    assert.equal(await store.put("points/a", [first]), "created");
    for (const again of [first, Uint8Array.of(9), new Uint8Array(0)]) {
      assert.equal(await store.put("points/a", [again]), "exists");
      assert.ok(bytesEqual(await store.get("points/a"), first));
    }
    assert.equal(await (await fixture.openAgain()).put("points/a", []), "exists");
    assert.deepEqual(await listAll(store), new Map([["points/a", 3]]));
  });

  test(`${name}: neither keeps what it was given nor shares what it gives`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const content = Uint8Array.of(1, 2, 3);
    await store.put("a", [content]);
    content.fill(9);
    const read = await store.get("a");
    read.fill(8);
    const part = await store.get("a", { offsetBytes: 0, lengthBytes: 3 });
    part.fill(7);
    assert.deepEqual([...(await store.get("a"))], [1, 2, 3]);
  });

  test(`${name}: takes views and shared memory`, async () => {
    await using fixture = await suite.open();
    const shared = new Uint8Array(new SharedArrayBuffer(10)).fill(5);
    const view = Uint8Array.of(0, 1, 2, 3).subarray(1, 3);
    await fixture.store.put("a", [shared.subarray(8), view, Buffer.from("x")]);
    assert.deepEqual([...(await fixture.store.get("a"))], [5, 5, 1, 2, 0x78]);
  });

  test(`${name}: takes a pack of 32 MiB in thousands of parts`, async () => {
    await using fixture = await suite.open();
    const random = createSeededRandom(`${name} pack`);
    const whole = random.bytes(32 * MIB);
    const parts: Uint8Array[] = [];
    for (let at = 0; at < whole.byteLength;) {
      const end = Math.min(whole.byteLength, at + random.integer(0, 25_000));
      parts.push(whole.subarray(at, end));
      at = end;
    }
    assert.ok(parts.length > 2000);
    assert.equal(await fixture.store.put("packs/ff/x", parts), "created");
    assert.ok(bytesEqual(await fixture.store.get("packs/ff/x"), whole));
  });

  test(`${name}: takes large content in page-aligned memory, whatever its length`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const memory = allocateAligned(2 * 1024 * 1024, "shared");
    memory.set(createSeededRandom(`${name} aligned`).bytes(memory.byteLength));
    const mib = 1024 * 1024;
    for (const lengthBytes of [mib, mib + 1, mib + 4095, mib + 4096, 2 * mib - 512]) {
      for (const startBytes of [0, 4096, 12]) {
        const content = memory.subarray(startBytes, Math.min(startBytes + lengthBytes, 2 * mib));
        const object = `aligned/${startBytes}-${lengthBytes}`;
        assert.equal(await store.put(object, [content]), "created");
        assert.ok(bytesEqual(await store.get(object), content), object);
      }
    }
  });

  test(`${name}: what is removed is gone, and its name free`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    await store.remove("nowhere/at/all");
    await store.put("a/b", [Uint8Array.of(1)]);
    await store.put("a/c", [Uint8Array.of(2)]);
    await store.remove("a/b");
    await store.remove("a/b");
    assert.equal(await store.stat("a/b"), undefined);
    await assert.rejects(store.get("a/b"), (error) => isKluisError(error, "ObjectNotFound"));
    assert.deepEqual([...(await listAll(store)).keys()], ["a/c"]);
    assert.equal(await store.put("a/b", [Uint8Array.of(3)]), "created");
    assert.deepEqual([...(await store.get("a/b"))], [3]);
  });

  test(`${name}: what is not there is undefined to stat and ObjectNotFound to get`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    await store.put("a/b/c", [Uint8Array.of(1)]);
    for (const missing of ["x", "a/x", "a/b/x", "x/y/z", "a", "a/b", "a/b/c/d"]) {
      assert.equal(await store.stat(missing), undefined, missing);
      for (const range of [undefined, { offsetBytes: 0, lengthBytes: 1 }]) {
        await assert.rejects(
          store.get(missing, range),
          (error) => isKluisError(error, "ObjectNotFound") && error.message.includes(missing),
        );
      }
    }
  });

  test(`${name}: a probe passes, also twice at once, and leaves nothing`, async () => {
    await using fixture = await suite.open();
    const again = await fixture.openAgain();
    await Promise.all([fixture.store.probe(), again.probe()]);
    await fixture.store.probe();
    assert.deepEqual(await listAll(fixture.store), new Map());
  });
}

function declareRangeTests(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: every range inside an object is exact`, async () => {
    await using fixture = await suite.open();
    const random = createSeededRandom(`${name} ranges`);
    const whole = random.bytes(100_000);
    await fixture.store.put("a", [whole]);
    const edges = [0, 1, 4095, 4096, 4097, 99_999, 100_000];
    const ranges = edges.flatMap((start) => edges.map((end) => [start, end] as const));
    for (let at = 0; at < 100; at++) {
      const start = random.integer(0, whole.byteLength);
      ranges.push([start, random.integer(start, whole.byteLength)]);
    }
    const forward = ranges.filter(([start, end]) => start <= end);
    await Promise.all(
      forward.map(async ([start, end]) => {
        const range = { offsetBytes: start, lengthBytes: end - start };
        assert.ok(bytesEqual(await fixture.store.get("a", range), whole.subarray(start, end)));
      }),
    );
  });

  test(`${name}: a range past the end is ObjectCorrupt`, async () => {
    await using fixture = await suite.open();
    await fixture.store.put("a", [new Uint8Array(10)]);
    for (const [offsetBytes, lengthBytes] of [
      [0, 11],
      [10, 1],
      [11, 1],
      [2 ** 40, 5],
    ] as const) {
      await assert.rejects(fixture.store.get("a", { offsetBytes, lengthBytes }), (error) =>
        isKluisError(error, "ObjectCorrupt"),
      );
    }
  });
}

function declareRaceTests(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: of racing puts one creates the object, and its content is that one's`, async () => {
    await using fixture = await suite.open();
    const random = createSeededRandom(`${name} races`);
    const stores = [fixture.store, await fixture.openAgain(), await fixture.openAgain()];
    for (let round = 0; round < 10; round++) {
      const target = `points/${round}/x`;
      const contents = Array.from({ length: 12 }, () => random.bytes(random.integer(0, 50_000)));
      const outcomes = await Promise.all(
        contents.map((content) => random.pick(stores).put(target, [content])),
      );
      const winner = outcomes.indexOf("created");
      assert.equal(outcomes.filter((outcome) => outcome === "created").length, 1);
      assert.ok(bytesEqual(await fixture.store.get(target), contents[winner] ?? fail()));
    }
  });

  test(`${name}: a reader sees no object or the whole one while writers race`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const random = createSeededRandom(`${name} readers`);
    const content = random.bytes(2 * MIB);
    const parts = Array.from({ length: 64 }, (_, at) => content.subarray(at << 15, (at + 1) << 15));
    const writing = new AbortController();
    const reader = async (): Promise<number> => {
      let reads = 0;
      for (; !writing.signal.aborted; reads++) {
        try {
          assert.ok(bytesEqual(await store.get("maps/aa/x"), content));
        } catch (error) {
          if (!isKluisError(error, "ObjectNotFound")) throw error;
          for await (const info of store.list("maps/")) {
            assert.equal(info.sizeBytes, content.byteLength);
          }
        }
        await new Promise(setImmediate);
      }
      return reads;
    };
    const readers = [reader(), reader()];
    const outcomes = await Promise.all([1, 2, 3, 4].map(() => store.put("maps/aa/x", parts)));
    writing.abort();
    assert.ok((await Promise.all(readers)).every((reads) => reads > 0));
    assert.equal(outcomes.filter((outcome) => outcome === "created").length, 1);
  });

  test(`${name}: puts of many names run side by side`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const names = Array.from({ length: 100 }, (_, at) => `packs/${at % 10}/${at}`);
    const outcomes = await Promise.all(names.map((one) => store.put(one, [Buffer.from(one)])));
    assert.ok(outcomes.every((outcome) => outcome === "created"));
    for (const one of names) assert.equal(Buffer.from(await store.get(one)).toString(), one);
    assert.equal((await listAll(store)).size, names.length);
  });
}

function declareListingTests(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: lists what lies below a prefix, with its size`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    assert.deepEqual(await listAll(store), new Map());
    const sizes: Record<string, number> = {
      "a/1": 1,
      "a/2": 2,
      "a/b/3": 3,
      "ab/4": 4,
      a5: 5,
      z: 0,
    };
    for (const [one, size] of Object.entries(sizes)) await store.put(one, [new Uint8Array(size)]);
    const sorted = Object.entries(sizes).sort(([a], [b]) => (a < b ? -1 : 1));
    const below = (prefix: string): Map<string, number> =>
      new Map(sorted.filter(([one]) => one.startsWith(prefix)));
    for (const prefix of ["", "a/", "a/b/", "ab/", "b/", "a/b/c/", "z/"]) {
      assert.deepEqual(await listAll(store, prefix), below(prefix), `prefix "${prefix}"`);
    }
  });

  test(`${name}: lists hundreds, and may be left in the middle`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const names = Array.from({ length: 300 }, (_, at) => `index/${at}`);
    await Promise.all(names.map((one) => store.put(one, [])));
    assert.deepEqual(new Set((await listAll(store)).keys()), new Set(names));
    let seen = 0;
    for await (const info of store.list("index/")) {
      assert.ok(names.includes(info.name));
      if (++seen === 5) break;
    }
    assert.equal((await listAll(store, "index/")).size, 300);
  });

  test(`${name}: lists what stays while others come and go`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const staying = Array.from({ length: 40 }, (_, at) => `s/${at % 4}/${at}`);
    await Promise.all(staying.map((one) => store.put(one, [])));
    const changing = async (): Promise<void> => {
      for (let at = 0; at < 40; at++) {
        await store.put(`s/${at % 4}/c${at}`, []);
        if (at % 2 === 0) await store.remove(`s/${at % 4}/c${at}`);
      }
    };
    const [, ...listings] = await Promise.all([changing(), listAll(store), listAll(store, "s/")]);
    for (const listing of listings) {
      for (const one of staying) assert.ok(listing.has(one), one);
    }
  });
}

function declareArgumentTests(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: refuses bad names and prefixes`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const isInvalid = (error: unknown): boolean => isKluisError(error, "ArgumentInvalid");
    for (const bad of badNames) {
      await assert.rejects(store.put(bad, []), isInvalid, bad);
      await assert.rejects(store.get(bad), isInvalid, bad);
      await assert.rejects(store.stat(bad), isInvalid, bad);
      await assert.rejects(store.remove(bad), isInvalid, bad);
    }
    for (const bad of badNames) {
      // These two are no names, but prefixes.
      if (bad === "" || bad === "a/") continue;
      await assert.rejects(listAll(store, bad), isInvalid, bad);
      await assert.rejects(listAll(store, `${bad}/`), isInvalid, bad);
    }
    await assert.rejects(listAll(store, "a"), isInvalid);
    assert.deepEqual(await listAll(store), new Map());
  });

  test(`${name}: refuses what is too large, and ranges that are none`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const mib = new Uint8Array(MIB);
    const parts = Array.from({ length: 64 }, () => mib);
    await assert.rejects(store.put("a", [...parts, Uint8Array.of(1)]), /at most 64 MiB/);
    assert.equal(await store.stat("a"), undefined);
    assert.equal(await store.put("b", parts), "created");
    assert.equal((await store.stat("b"))?.sizeBytes, 64 * MIB);
    assert.equal((await store.get("b")).byteLength, 64 * MIB);
    await store.put("a", [mib]);
    for (const [offsetBytes, lengthBytes] of [
      [-1, 1],
      [0, -1],
      [0.5, 1],
      [0, NaN],
      [0, 64 * MIB + 1],
    ] as const) {
      await assert.rejects(store.get("a", { offsetBytes, lengthBytes }), /a range has/);
    }
  });

  test(`${name}: an aborted call rejects with the signal's reason and does nothing`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const reason = new Error("stopped by the test");
    const aborted = AbortSignal.abort(reason);
    await store.put("a", [Uint8Array.of(1)]);
    const isReason = (error: unknown): boolean => error === reason;
    await assert.rejects(store.put("b", [Uint8Array.of(1)], aborted), isReason);
    await assert.rejects(store.get("a", undefined, aborted), isReason);
    await assert.rejects(store.stat("a", aborted), isReason);
    await assert.rejects(store.remove("a", aborted), isReason);
    await assert.rejects(store.probe(aborted), isReason);
    await assert.rejects(async () => {
      for await (const info of store.list("", aborted)) assert.fail(info.name);
    }, isReason);
    assert.deepEqual(await listAll(store), new Map([["a", 1]]));
  });

  test(`${name}: an abort in the middle of a put leaves no object or the whole one`, async () => {
    await using fixture = await suite.open();
    const { store } = fixture;
    const random = createSeededRandom(`${name} aborts`);
    const content = random.bytes(MIB);
    for (let round = 0; round < 20; round++) {
      const stop = new AbortController();
      const put = store.put(`packs/${round}`, [content], stop.signal).catch(() => "aborted");
      for (let turns = random.integer(0, 12); turns > 0; turns--) await new Promise(setImmediate);
      stop.abort(new Error("stop"));
      const outcome = await put;
      const info = await store.stat(`packs/${round}`);
      if (outcome === "created") assert.ok(info !== undefined);
      if (info !== undefined) assert.ok(bytesEqual(await store.get(info.name), content));
    }
  });
}

function declareModelTest(name: string, suite: ObjectStoreSuite): void {
  test(`${name}: random steps agree with a map`, async () => {
    await using fixture = await suite.open();
    const random = createSeededRandom(`${name} model`);
    const model = new Map<string, Uint8Array>();
    let { store } = fixture;
    for (let step = 0; step < 400; step++) {
      if (random.chance(0.03)) store = await fixture.openAgain();
      await takeStep(store, model, random);
    }
    const sizes = [...model].map(([one, content]) => [one, content.byteLength] as const);
    assert.deepEqual(await listAll(store), new Map(sizes.toSorted(([a], [b]) => (a < b ? -1 : 1))));
  });
}

async function takeStep(
  store: ObjectStore,
  model: Map<string, Uint8Array>,
  random: SeededRandom,
): Promise<void> {
  const target = `${random.pick(["a", "b", "c/d"])}/${random.integer(0, 9)}`;
  const content = model.get(target);
  const action = random.pick(["put", "put", "get", "range", "stat", "remove"] as const);
  if (action === "put") {
    const fresh = random.bytes(random.integer(0, 3000));
    const outcome = await store.put(target, [fresh.subarray(0, 7), fresh.subarray(7)]);
    assert.equal(outcome, content === undefined ? "created" : "exists");
    if (content === undefined) model.set(target, fresh);
  } else if (action === "stat") {
    assert.equal((await store.stat(target))?.sizeBytes, content?.byteLength);
  } else if (action === "remove") {
    await store.remove(target);
    model.delete(target);
  } else if (content === undefined) {
    await assert.rejects(store.get(target), (error) => isKluisError(error, "ObjectNotFound"));
  } else if (action === "get") {
    assert.ok(bytesEqual(await store.get(target), content));
  } else {
    const offsetBytes = random.integer(0, content.byteLength);
    const lengthBytes = random.integer(0, content.byteLength - offsetBytes);
    const read = await store.get(target, { offsetBytes, lengthBytes });
    assert.ok(bytesEqual(read, content.subarray(offsetBytes, offsetBytes + lengthBytes)));
  }
}

function fail(): never {
  return assert.fail("one of the puts won");
}
