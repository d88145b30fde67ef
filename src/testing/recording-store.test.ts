// Goal: a cut of the log is exactly a store that a crash at that moment could have left.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { RecordingStore } from "./recording-store.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function contents(store: ObjectStore): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { name } of store.list("")) {
    found[name] = new TextDecoder().decode(await store.get(name));
  }
  return found;
}

test("recording store: every cut of a sequence holds what had returned by then", async () => {
  const store = await RecordingStore.open();
  await store.put("a", [bytes("1"), bytes("2")]);
  await store.put("b", [bytes("3")]);
  await store.put("a", [bytes("other")]);
  await store.remove("a");
  const states = [];
  for (let cut = 0; cut <= store.events.length; cut++) {
    states.push(await contents(store.rebuild(cut)));
  }
  const one = { a: "12" };
  const two = { a: "12", b: "3" };
  assert.deepEqual(states, [{}, {}, one, one, two, two, two, two, { b: "3" }]);
  assert.deepEqual(await contents(store), { b: "3" });
});

test("recording store: what is under way may survive or not, as the test chooses", async () => {
  const store = await RecordingStore.open();
  await Promise.all([store.put("a", [bytes("1")]), store.put("b", [bytes("2")])]);
  assert.deepEqual(await contents(store.rebuild(2)), {});
  assert.deepEqual(await contents(store.rebuild(2, () => true)), { a: "1", b: "2" });
  assert.deepEqual(await contents(store.rebuild(2, (change) => change.name === "b")), { b: "2" });
  assert.deepEqual(await contents(store.rebuild(4)), { a: "1", b: "2" });
});

test("recording store: keeps what was there before, copies content, counts reads", async () => {
  const inner = createMemoryStore([["old", bytes("before")]]);
  const store = await RecordingStore.open(inner);
  const content = bytes("x");
  await store.put("new", [content]);
  content.fill(0);
  const crashed = store.rebuild(store.events.length);
  assert.deepEqual(await contents(crashed), { old: "before", new: "x" });
  await store.get("old", { offsetBytes: 1, lengthBytes: 2 });
  await store.stat("old");
  assert.deepEqual(store.reads, { gets: 1, getBytes: 2, stats: 1, lists: 0 });
});
