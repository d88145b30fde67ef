// Goal: packs are durable before the inventory part and the segment that name them, in this order,
// segments follow each other, blocks count as stored only then, and a failure stops what follows.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "#base/clock.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { computeId } from "#vault/hashing.ts";
import { type BlockIndex, openIndex } from "#vault/index/block-index.ts";
import { putsInFlight } from "#vault/limits.ts";
import { PackBuilder } from "#vault/pack/pack-builder.ts";
import type { FinishedPack } from "./pack-assembler.ts";
import { PackSink } from "./pack-sink.ts";

const random = createSeededRandom("pack sink");

/** A store whose puts wait until they are let through. */
class GatedStore {
  readonly inner = createMemoryStore();
  readonly waiting: { readonly name: string; readonly go: (error?: Error) => void }[] = [];
  readonly done: string[] = [];

  readonly port: ObjectStore = {
    location: "memory:",
    put: (name, parts, signal) => this.#put(name, parts, signal),
    get: (...args) => this.inner.get(...args),
    stat: (...args) => this.inner.stat(...args),
    list: (...args) => this.inner.list(...args),
    remove: (...args) => this.inner.remove(...args),
    probe: (...args) => this.inner.probe(...args),
  };

  /** Lets the put that waits longest through, or makes it fail. */
  async next(error?: Error): Promise<string> {
    while (this.waiting.length === 0) await new Promise(setImmediate);
    const put = this.waiting.shift();
    put?.go(error);
    for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
    return put?.name.split("/")[0] ?? "";
  }

  async #put(...[name, parts, signal]: Parameters<ObjectStore["put"]>): Promise<PutOutcome> {
    await new Promise<void>((resolve, reject) => {
      this.waiting.push({ name, go: (error) => (error === undefined ? resolve() : reject(error)) });
      signal?.addEventListener("abort", () => reject(signal.reason as Error));
    });
    const outcome = await this.inner.put(name, parts, signal);
    this.done.push(name);
    return outcome;
  }
}

interface Fixture {
  readonly store: GatedStore;
  readonly sink: PackSink;
  readonly index: BlockIndex;
  readonly errors: unknown[];
  readonly indexed: string[];
  readonly released: () => number;
  /** A pack of one block, and the block's id. */
  readonly createPack: (type?: "pack" | "mapPack") => { pack: FinishedPack; id: Uint8Array };
}

async function createFixture(): Promise<Fixture> {
  const store = new GatedStore();
  const index = await openIndex({
    segmentNames: [],
    readSegment: () => Promise.reject(new Error("nothing is read")),
  });
  const controller = new AbortController();
  const errors: unknown[] = [];
  const indexed: string[] = [];
  let released = 0;
  const sink = new PackSink({
    store: store.port,
    keys: testKeys,
    index,
    random,
    clock: systemClock,
    entriesMax: 3,
    signal: controller.signal,
    onError: (error) => {
      errors.push(error);
      controller.abort(error);
    },
    onIndexed: (packs) => {
      for (const { entries } of packs) {
        for (const { id } of entries) {
          assert.ok(index.has(id), "the index has it by then");
          indexed.push(Buffer.from(id).toString("hex"));
        }
      }
    },
  });
  return {
    store,
    sink,
    index,
    errors,
    indexed,
    released: () => released,
    createPack(type = "pack") {
      const builder = new PackBuilder({ type, keys: testKeys, random, verify: true });
      const plain = random.bytes(500);
      const id = computeId(type === "pack" ? testKeys.blockIdKey : testKeys.nodeIdKey, plain);
      builder.add(plain, [{ id, offsetBytes: 0, lengthBytes: 500 }], { compress: true });
      return { pack: { ...builder.finish(), release: () => released++ }, id };
    },
  };
}

test("pack sink: a block counts as stored when the segment that names its pack is durable", async () => {
  const { store, sink, index, indexed, createPack, released } = await createFixture();
  const { pack, id } = createPack();
  sink.accept(pack);
  assert.equal(await store.next(), "packs");
  await sink.drain();
  assert.equal(released(), 1);
  assert.equal(index.has(id), false, "nobody may build on it yet");
  const segment = sink.writeSegment();
  assert.equal(index.has(id), false);
  assert.equal(await store.next(), "inventory", "a pack that others may build on is in it");
  assert.equal(index.has(id), false);
  assert.equal(await store.next(), "index");
  await segment;
  assert.ok(index.has(id) && indexed.length === 1);
  await sink.writeSegment();
  assert.equal(store.done.length, 3, "nothing is left to be named");
  assert.equal(sink.totals.objects, 3);
  await index.close();
});

test("pack sink: a segment waits for the one before it", async () => {
  const { store, sink, index, createPack } = await createFixture();
  sink.accept(createPack().pack);
  await store.next();
  const first = sink.writeSegment();
  let isOver = false;
  // Has nothing of its own to write, and may still not pass: what follows it builds on the first.
  const second = sink.writeSegment().then(() => (isOver = true));
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate);
  assert.equal(isOver, false);
  await store.next();
  await store.next();
  await Promise.all([first, second]);
  await index.close();
});

test("pack sink: says when so much waits that a segment is due", async () => {
  const { store, sink, index, createPack } = await createFixture();
  for (let pack = 1; pack <= 3; pack++) {
    assert.equal(sink.isSegmentDue, false);
    sink.accept(createPack().pack);
    await store.next();
  }
  assert.ok(sink.isSegmentDue);
  const segment = sink.writeSegment();
  await store.next();
  await store.next();
  await segment;
  assert.equal(sink.isSegmentDue, false);
  await index.close();
});

test("pack sink: puts no more packs at once than its limit", async () => {
  const { store, sink, index, createPack } = await createFixture();
  for (let pack = 0; pack < putsInFlight + 3; pack++) sink.accept(createPack().pack);
  for (let left = putsInFlight + 3; left > 0; left--) {
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
    assert.equal(store.waiting.length, Math.min(left, putsInFlight));
    await store.next();
  }
  await sink.drain();
  await index.close();
});

test("pack sink: a put that fails is told, aborts the others, and no segment follows", async () => {
  const { store, sink, index, errors, createPack, released } = await createFixture();
  for (let pack = 0; pack < 3; pack++) sink.accept(createPack().pack);
  await store.next();
  const broken = new Error("no space");
  await store.next(broken);
  await sink.settle();
  assert.equal(errors[0], broken);
  assert.equal(released(), 3);
  await assert.rejects(sink.drain(), broken);
  await assert.rejects(sink.writeSegment(), broken);
  assert.ok(store.done.every((name) => name.startsWith("packs/")));
  await index.close();
});

test("pack sink: a segment that fails leaves its packs unknown", async () => {
  const { store, sink, index, indexed, createPack } = await createFixture();
  for (const whole of [0, 1]) {
    const { pack, id } = createPack("mapPack");
    sink.accept(pack);
    assert.equal(await store.next(), "maps");
    const segment = sink.writeSegment();
    if (whole === 1) assert.equal(await store.next(), "inventory");
    await Promise.all([store.next(new Error("no answer")), assert.rejects(segment, /no answer/)]);
    assert.equal(index.has(id), false);
    assert.equal(indexed.length, 0);
  }
  await index.close();
});
