// Goal: answers that no good server gives become typed errors: never wrong bytes, never an endless call.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { createFastClock } from "#testing/fast-clock.ts";
import { type BlobRead, type BlobService, RequestFailure } from "./blob-service.ts";
import { CloudStore } from "./cloud-store.ts";

/** Pauses of 25 s in all take 25 ms. */
const clock = createFastClock(1000);

function createStore(answers: Partial<BlobService>): CloudStore {
  const nothing = (): Promise<never> => Promise.reject(new RequestFailure("missing", "nothing"));
  const service: BlobService = {
    location: "test:",
    put: nothing,
    get: nothing,
    stat: async () => undefined,
    listPage: nothing,
    remove: nothing,
    removeVersions: nothing,
    ...answers,
  };
  return new CloudStore({ service, prefix: "p/", clock });
}

async function* chunksOf(...sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  for (const size of sizes) yield new Uint8Array(size).fill(7);
}

function answer(sizes: readonly number[], said: Partial<BlobRead> = {}): Partial<BlobService> {
  return {
    get: async () => ({
      sizeBytes: 10,
      offsetBytes: 0,
      lengthBytes: 10,
      chunks: chunksOf(...sizes),
      close: () => undefined,
      ...said,
    }),
  };
}

const isCode = (code: ErrorCode) => (error: unknown) => isKluisError(error, code);

test("cloud store: a body that is not what was announced is never returned", async () => {
  const range = { offsetBytes: 2, lengthBytes: 4 };
  const cases = [
    { answers: answer([4, 5]), code: "StoreUnavailable" },
    { answers: answer([4, 7]), code: "StoreUnavailable" },
    { answers: answer([]), code: "StoreUnavailable" },
    { answers: answer([10]), range, code: "StoreUnavailable" },
    { answers: answer([4], { offsetBytes: 3, lengthBytes: 4 }), range, code: "StoreUnavailable" },
    { answers: answer([3], { offsetBytes: 2, lengthBytes: 3 }), range, code: "StoreUnavailable" },
    { answers: answer([4], { sizeBytes: 5, offsetBytes: 2 }), range, code: "ObjectCorrupt" },
    { answers: answer([], { sizeBytes: 2 ** 40 }), code: "ObjectCorrupt" },
  ] as const;
  for (const { answers, code, ...rest } of cases) {
    const call = createStore(answers).get("a", "range" in rest ? rest.range : undefined);
    await assert.rejects(call, isCode(code));
  }
  const good = createStore(answer([1, 3], { offsetBytes: 2, lengthBytes: 4 }));
  assert.deepEqual([...(await good.get("a", range))], [7, 7, 7, 7]);
});

test("cloud store: a listing without order or end is refused", async () => {
  const blob = (name: string) => ({ name, sizeBytes: 1 });
  const pages = [
    { blobs: [blob("p/b"), blob("p/a")], next: undefined },
    { blobs: [blob("p/a"), blob("p/a")], next: undefined },
    { blobs: [blob("q/a")], next: undefined },
    { blobs: [blob("p/a")], next: "again" },
    { blobs: [], next: "again" },
  ];
  for (const page of pages) {
    const store = createStore({ listPage: async () => page });
    const list = async (): Promise<void> => {
      for await (const info of store.list("")) assert.ok(info.name.length > 0);
    };
    await assert.rejects(list(), isCode("StoreUnavailable"));
  }
});

test("cloud store: a put after which nothing can be read back ends as StoreUnavailable", async () => {
  let puts = 0;
  const store = createStore({
    put: async () => {
      puts++;
      return false;
    },
  });
  await assert.rejects(store.put("a", []), isCode("StoreUnavailable"));
  assert.equal(puts, 10);
});

test("cloud store: a put is ours only by its tag and its size", async () => {
  let putId = "";
  const put = async (_: string, content: { putId: string }): Promise<boolean> => {
    ({ putId } = content);
    throw new RequestFailure("unavailable", "lost");
  };
  const outcomeWith = (stat: () => { sizeBytes: number; putId: string | undefined }) =>
    createStore({ put, stat: async () => stat() }).put("a", [Uint8Array.of(1)]);
  assert.equal(await outcomeWith(() => ({ sizeBytes: 1, putId })), "created");
  assert.equal(await outcomeWith(() => ({ sizeBytes: 2, putId })), "exists");
  assert.equal(await outcomeWith(() => ({ sizeBytes: 1, putId: undefined })), "exists");
});

test("cloud store: what no failure explains comes through as it is", async () => {
  const bug = new TypeError("a bug");
  const store = createStore({ stat: () => Promise.reject(bug) });
  await assert.rejects(store.stat("a"), (error) => error === bug);
});
