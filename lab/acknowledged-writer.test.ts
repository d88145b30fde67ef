/**
 * Goal: the host's side of the acknowledged writer accepts what the writer says and nothing else,
 * and finds every acknowledged record that is missing. Method: a socket server in the guest's place.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  Acknowledgements,
  acknowledgedRecord,
  checkAcknowledgedRecords,
} from "./acknowledged-writer.ts";

const seed = 5;
const waitMs = 10_000;

/** Listens to a server that says `texts`, one write each, then ends. */
async function hear(
  texts: readonly string[],
  check: (heard: Acknowledgements) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "kluis-lab-ack-"));
  const path = join(directory, "ack.sock");
  const server = createServer((socket: Socket) => {
    for (const text of texts) socket.write(text);
    socket.end();
  });
  try {
    server.listen(path);
    await once(server, "listening");
    using heard = await Acknowledgements.open(path, seed);
    await check(heard);
  } finally {
    server.close();
    await rm(directory, { recursive: true, force: true });
  }
}

test("acknowledgements: counts lines however they are cut", async () => {
  await hear(["ack 5 0\nac", "k 5 1\nack 5", " 2\n"], async (heard) => {
    await heard.waitFor(2, waitMs);
    assert.equal(heard.lastNumber, 2);
  });
});

test("acknowledgements: ignores the rest of a line and other seeds", async () => {
  await hear(["k 5 41\nack 4 7\nack 5 42\nack 5 43\nack 5"], async (heard) => {
    await heard.waitFor(43, waitMs);
    await assert.rejects(heard.waitFor(44, waitMs), { code: "DiskReadFailed" });
    assert.equal(heard.lastNumber, 43);
  });
});

test("acknowledgements: refuses a number out of order and endless lines", async () => {
  await hear(["ack 5 1\nack 5 3\n"], (heard) =>
    assert.rejects(heard.waitFor(3, waitMs), /number 3 follows 1/),
  );
  await hear(["x".repeat(300)], (heard) =>
    assert.rejects(heard.waitFor(0, waitMs), /is no acknowledgement/),
  );
});

test("acknowledged records: finds the first that is missing, torn or stale", () => {
  const records = [0, 1, 2, 3].map((number) => acknowledgedRecord(seed, number));
  const expected = { seed, lastNumber: 3 };
  const whole = Buffer.concat(records);
  assert.equal(whole.byteLength, 4 * 4096);
  assert.equal(checkAcknowledgedRecords(whole, expected), 4);
  assert.equal(checkAcknowledgedRecords(whole, { seed, lastNumber: 1 }), 4);
  assert.throws(() => checkAcknowledgedRecords(whole.subarray(0, 9000), expected), /record 2/);
  const torn = Buffer.from(whole);
  torn.fill(0, 4096 + 512, 4096 + 1024);
  assert.throws(() => checkAcknowledgedRecords(torn, expected), /record 1/);
  const stale = Buffer.concat([...records.slice(0, 3), acknowledgedRecord(seed, 2)]);
  assert.throws(() => checkAcknowledgedRecords(stale, expected), /record 3/);
});
