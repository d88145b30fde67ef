// Goal: no more permits are out than there are, in order, whatever is aborted.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Semaphore } from "./semaphore.ts";

test("semaphore: hands permits out in order and never more than there are", async () => {
  const semaphore = new Semaphore(2);
  const order: number[] = [];
  let held = 0;
  await Promise.all(
    Array.from({ length: 20 }, async (_, index) => {
      await semaphore.acquire();
      held += 1;
      assert.ok(held <= 2);
      order.push(index);
      await Promise.resolve();
      held -= 1;
      semaphore.release();
    }),
  );
  assert.deepEqual(
    order,
    Array.from({ length: 20 }, (_, index) => index),
  );
});

test("semaphore: an aborted wait rejects with the reason and loses no permit", async () => {
  const semaphore = new Semaphore(1);
  await semaphore.acquire();
  const controller = new AbortController();
  const aborted = semaphore.acquire(controller.signal);
  const next = semaphore.acquire();
  controller.abort(new Error("enough"));
  await assert.rejects(aborted, /enough/);
  await assert.rejects(semaphore.acquire(controller.signal), /enough/);
  semaphore.release();
  await next;
  semaphore.release();
  await semaphore.acquire();
});
