// Goal: progress is drawn on terminals only, leaves nothing behind, and is silent for JSON.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ManualClock } from "#testing/manual-clock.ts";
import type { Terminal } from "./environment.ts";
import { formatBarLine, formatPlainLine, ProgressDisplay } from "./progress-display.ts";

const MiB = 1024 * 1024;

function createTerminal(isTerminal: boolean): { terminal: Terminal; written: string[] } {
  const written: string[] = [];
  const stream = { write: (text: string) => written.push(text), isTerminal, columns: () => 80 };
  return { terminal: { output: stream, errors: stream, isUnicode: false }, written };
}

const part = {
  name: "vda sending",
  doneBytes: 3 * MiB,
  totalBytes: 12 * MiB,
  bytesPerSecond: MiB,
  remainingMs: 9000,
};

test("progress display: a line tells share, amount, rate and what is left", () => {
  const line = formatBarLine(part, { width: 12, columns: 100, isUnicode: false });
  assert.equal(
    line,
    "  vda sending   ######------------------   25 %  3.00 MiB of 12.0 MiB  1.00 MiB/s  9.0 s left",
  );
  for (let columns = 20; columns < 100; columns++) {
    const short = formatBarLine(part, { width: 12, columns, isUnicode: true });
    assert.ok(short.length <= columns && short.startsWith("  vda sending"), short);
    if (columns >= 68) assert.ok(short.endsWith("9.0 s left"), short);
  }
  assert.equal(
    formatPlainLine(part),
    "vda sending: 25 %, 3.00 MiB of 12.0 MiB, 1.00 MiB/s, 9.0 s left",
  );
  const unknown = { ...part, doneBytes: 0 };
  const { remainingMs: _, ...early } = unknown;
  assert.equal(formatPlainLine(early), "vda sending: 0 %, 0 B of 12.0 MiB");
  const done = { ...part, doneBytes: 12 * MiB, remainingMs: 0 };
  const full = formatBarLine(done, { width: 0, columns: 100, isUnicode: true });
  assert.match(full, /━{24} {2}100 % .*finishing$/);
});

test("progress display: on a terminal it draws one line for each disk anew, and takes them away", async () => {
  const { terminal, written } = createTerminal(true);
  const clock = new ManualClock();
  {
    await using display = new ProgressDisplay({ terminal, clock, form: "table" });
    display.update({ disk: "vda", doing: "comparing", doneBytes: 5, totalBytes: 10 });
    display.update({ disk: "vdb", doing: "sending", doneBytes: 1, totalBytes: 10 });
    await clock.advance(130);
    assert.equal(written.length, 1);
    assert.equal(written[0]?.split("\n").length, 3);
    assert.match(written[0] ?? "", /vda comparing/);
    display.update({ disk: "vda", doing: "sending", doneBytes: 2, totalBytes: 10 });
    await clock.advance(130);
    assert.ok(written[1]?.startsWith("\u001b[2A\u001b[J"));
    assert.match(written[1] ?? "", /vdb sending[^]*vda sending/);
    assert.doesNotMatch(written[1] ?? "", /comparing/);
  }
  assert.equal(written.at(-1), "\u001b[2A\u001b[J");
  assert.ok(written.every((text) => text.split("\n").every((line) => line.length < 80)));
});

test("progress display: in a log it writes plain lines, and only for work that takes time", async () => {
  const { terminal, written } = createTerminal(false);
  const clock = new ManualClock();
  await using display = new ProgressDisplay({ terminal, clock, form: "table" });
  for (let at = 0; at < 130; at++) {
    display.update({ disk: "vda", doing: "sending", doneBytes: at, totalBytes: 1000 });
    if (clock.monotonicMs() < 2000) assert.equal(written.length, 0);
    await clock.advance(100);
  }
  assert.equal(written.length, 3);
  assert.ok(written.every((line) => /^vda sending: \d+ %, .*\n$/.test(line)));
});

test("progress display: with JSON it writes nothing", async () => {
  const { terminal, written } = createTerminal(true);
  const clock = new ManualClock();
  {
    await using display = new ProgressDisplay({ terminal, clock, form: "json" });
    display.update({ disk: "vda", doing: "sending", doneBytes: 1, totalBytes: 10 });
    display.note("a snapshot");
    await clock.advance(10_000);
  }
  assert.deepEqual(written, []);
});
