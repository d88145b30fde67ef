// Goal: a request that stands still is ended, one that moves is not, and an abort ends both.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ManualClock } from "#testing/manual-clock.ts";
import { runAttempt, stallMaxMs } from "./attempt.ts";
import { RequestFailure } from "./blob-service.ts";

test("attempt: ends what stands still, with a failure that is tried again", async () => {
  const clock = new ManualClock();
  let signal: AbortSignal | undefined;
  const attempt = runAttempt(
    (one) => {
      ({ signal } = one);
      return new Promise(() => {});
    },
    { clock, signal: undefined },
  );
  const ended = assert.rejects(
    attempt,
    (error) => error instanceof RequestFailure && error.kind === "unavailable",
  );
  await clock.advance(stallMaxMs - 1);
  assert.equal(signal?.aborted, false);
  await clock.advance(1);
  await ended;
  assert.equal(signal.aborted, true);
});

test("attempt: lets go on what moves, for as long as it moves", async () => {
  const clock = new ManualClock();
  let onProgress = (): void => {};
  let end: (result: string) => void = () => {};
  const attempt = runAttempt(
    (one) => {
      ({ onProgress } = one);
      return new Promise<string>((resolve) => (end = resolve));
    },
    { clock, signal: undefined },
  );
  for (let at = 0; at < 20; at++) {
    await clock.advance(stallMaxMs - 1);
    onProgress();
  }
  end("done");
  assert.equal(await attempt, "done");
  await clock.advance(0);
  assert.equal(clock.sleeping, 0, "nobody watches any more");
});

test("attempt: an abort ends it with the signal's reason, whatever the work says", async () => {
  const clock = new ManualClock();
  const stop = new AbortController();
  const reason = new Error("stopped by the test");
  const attempt = runAttempt(
    (one) =>
      new Promise((_, reject) => {
        one.signal.addEventListener("abort", () => reject(new Error("some library's word")));
      }),
    { clock, signal: stop.signal },
  );
  const ended = assert.rejects(attempt, (error) => error === reason);
  stop.abort(reason);
  await ended;
});
