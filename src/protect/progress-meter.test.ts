// Goal: rates and remaining times are those of the last seconds, and sums agree with their parts.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { testSeed } from "#testing/seed.ts";
import { ProgressMeter, rateWindowMs } from "./progress-meter.ts";

const MiB = 1024 * 1024;

test("progress meter: tells the rate and the remaining time of steady work", () => {
  const meter = new ProgressMeter(0);
  for (let atMs = 0; atMs <= 5000; atMs += 100) {
    meter.update("vda", { doneBytes: (atMs / 1000) * MiB, totalBytes: 10 * MiB }, atMs);
  }
  const [part] = meter.read(5000).parts;
  assert.equal(part?.bytesPerSecond, MiB);
  assert.equal(part?.remainingMs, 5000);
});

test("progress meter: forgets the speed of long ago", () => {
  const meter = new ProgressMeter(0);
  let doneBytes = 0;
  for (let atMs = 0; atMs <= 60_000; atMs += 50) {
    doneBytes += atMs < 30_000 ? 50 * MiB : MiB;
    meter.update("vda", { doneBytes, totalBytes: 100_000 * MiB }, atMs);
  }
  const rate = meter.read(60_000).total.bytesPerSecond;
  assert.ok(Math.abs(rate / (20 * MiB) - 1) < 0.05, `rate ${rate}`);
});

test("progress meter: says no remaining time before there is a rate, nor when nothing moves", () => {
  const meter = new ProgressMeter(0);
  meter.update("vda", { doneBytes: 0, totalBytes: MiB }, 0);
  assert.equal(meter.read(100).total.remainingMs, undefined);
  assert.equal(meter.read(rateWindowMs * 3).total.remainingMs, undefined);
  assert.equal(meter.read(rateWindowMs * 3).total.bytesPerSecond, 0);
});

test("progress meter: the rate falls to nothing while work stands still", () => {
  const meter = new ProgressMeter(0);
  for (let atMs = 0; atMs <= 4000; atMs += 100) {
    meter.update("vda", { doneBytes: atMs * 1000, totalBytes: 10_000_000 }, atMs);
  }
  const rates = [4000, 8000, 30_000].map((atMs) => meter.read(atMs).total.bytesPerSecond);
  assert.ok((rates[0] ?? 0) > (rates[1] ?? 0) && (rates[1] ?? 0) > (rates[2] ?? 0));
});

test("progress meter: sums equal their parts, whatever is reported in which order", () => {
  const event = fc.record({
    part: fc.constantFrom("a", "b", "c"),
    doneBytes: fc.nat(1_000_000),
    moreBytes: fc.nat(1_000_000),
    waitMs: fc.nat(3000),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const meter = new ProgressMeter(0);
      let nowMs = 0;
      for (const { part, doneBytes, moreBytes, waitMs } of events) {
        nowMs += waitMs;
        meter.update(part, { doneBytes, totalBytes: doneBytes + moreBytes }, nowMs);
        const { parts, total } = meter.read(nowMs);
        const sum = (key: "doneBytes" | "totalBytes"): number =>
          parts.reduce((bytes, each) => bytes + each[key], 0);
        assert.equal(total.doneBytes, sum("doneBytes"));
        assert.equal(total.totalBytes, sum("totalBytes"));
        for (const { remainingMs } of parts) {
          assert.ok(remainingMs === undefined || remainingMs >= 0);
        }
      }
    }),
    { seed: testSeed() },
  );
});
