// Goal: replies mean the same however the stream is cut; garbage gives NbdProtocol and nothing else.
// Method: fast-check cuts valid streams at random places, and makes up streams.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import {
  encodeNbdReplyHeader,
  encodeNbdStatus,
  nbdChunkType,
  nbdCommand,
} from "#formats/nbd-wire.ts";
import { fakeChunk, fakeDataChunk, fakeHoleChunk } from "#testing/fake-nbd-server.ts";
import { testSeed } from "#testing/seed.ts";
import { Coverage, Flight } from "./flight.ts";
import { ReplyReader } from "./reply-reader.ts";

const seed = testSeed();
const READ_BYTES = 4096;
const NONE = new Uint8Array(0);

function createFlights(): {
  flights: Map<number, Flight>;
  read: Flight;
  status: Flight;
  write: Flight;
} {
  const base = { flags: 0, offsetBytes: 8192, lengthBytes: READ_BYTES };
  const settled = (): void => undefined;
  const target = new Uint8Array(READ_BYTES).fill(0xa5);
  const read = new Flight({ ...base, command: nbdCommand.read, target }, settled);
  const status = new Flight({ ...base, command: nbdCommand.blockStatus }, settled);
  const write = new Flight({ ...base, command: nbdCommand.write, payload: target }, settled);
  const flights = new Map<number, Flight>();
  for (const [index, flight] of [read, status, write].entries()) {
    flight.cookie = index + 1;
    flights.set(flight.cookie, flight);
  }
  return { flights, read, status, write };
}

test("reply reader: understands a stream however it is cut", () => {
  const stream = concatBytes([
    fakeChunk(
      2,
      nbdChunkType.blockStatus,
      encodeNbdStatus(5, [{ lengthBytes: 4096, flags: 3 }]),
      false,
    ),
    fakeDataChunk(1, 8192 + 1000, new Uint8Array(3000).fill(2)),
    fakeHoleChunk(1, 8192 + 4000, 96),
    encodeNbdReplyHeader({ kind: "simple", cookie: 3, errno: 28 }),
    fakeDataChunk(1, 8192, new Uint8Array(1000).fill(1)),
    fakeChunk(
      2,
      nbdChunkType.blockStatus,
      encodeNbdStatus(6, [{ lengthBytes: 1, flags: 1 }]),
      true,
    ),
    fakeChunk(1, nbdChunkType.none, NONE, true),
  ]);
  const expected = new Uint8Array(READ_BYTES).fill(1, 0, 1000).fill(2, 1000, 4000);
  const cuts = fc.array(fc.nat({ max: stream.byteLength }), { maxLength: 200 });
  fc.assert(
    fc.property(cuts, (places) => {
      const { flights, read, status, write } = createFlights();
      const answered: Flight[] = [];
      const reader = new ReplyReader({
        flights,
        structuredReplies: true,
        onAnswered: (flight) => answered.push(flight),
      });
      const borders = [0, ...places.toSorted((a, b) => a - b), stream.byteLength];
      for (const [index, end] of borders.entries()) {
        // A copy that is spoilt after the call, as the receive buffer is.
        const piece = stream.slice(borders[index - 1] ?? 0, end);
        reader.consume(piece);
        piece.fill(0xee);
      }
      assert.deepEqual(answered, [write, status, read]);
      assert.equal(flights.size, 0);
      assert.equal(write.error?.errno, 28);
      assert.deepEqual([...status.statuses.keys()], [5, 6]);
      assert.ok(bytesEqual(read.request.target ?? NONE, expected));
    }),
    { seed, numRuns: 300 },
  );
});

test("reply reader: whatever comes, it throws NbdProtocol or goes on", () => {
  const reply = fc.oneof(
    fc.uint8Array({ maxLength: 64 }),
    fc
      .tuple(
        fc.integer({ min: 1, max: 3 }),
        fc.constantFrom(...Object.values(nbdChunkType)),
        fc.uint8Array({ maxLength: 40 }),
        fc.boolean(),
      )
      .map(([cookie, type, payload, done]) => fakeChunk(cookie, type, payload, done)),
    fc
      .tuple(fc.integer({ min: 1, max: 3 }), fc.nat({ max: 9000 }), fc.nat({ max: 5000 }))
      .map(([cookie, at, length]) => fakeDataChunk(cookie, 8000 + at, new Uint8Array(length))),
  );
  fc.assert(
    fc.property(fc.array(reply, { maxLength: 8 }), fc.boolean(), (replies, structuredReplies) => {
      const { flights } = createFlights();
      const reader = new ReplyReader({ flights, structuredReplies, onAnswered: () => undefined });
      try {
        for (const bytes of replies) reader.consume(bytes);
      } catch (error) {
        assert.ok(isKluisError(error, "NbdProtocol"), String(error));
      }
    }),
    { seed, numRuns: 3000 },
  );
});

test("coverage: is whole exactly when ranges beside each other make up the read", () => {
  const lengthBytes = 64;
  const range = fc.tuple(fc.nat({ max: 63 }), fc.integer({ min: 1, max: 20 }));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), (ranges) => {
      const coverage = new Coverage();
      const model = new Uint8Array(lengthBytes + 20);
      for (const [start, length] of ranges) {
        const isFree = model.subarray(start, start + length).every((byte) => byte === 0);
        if (isFree) {
          coverage.add(start, start + length);
          model.fill(1, start, start + length);
        } else {
          assert.throws(() => {
            coverage.add(start, start + length);
          }, /twice/);
        }
      }
      const end = model.lastIndexOf(1) + 1;
      const isWhole = end > 0 && model.subarray(0, end).every((byte) => byte === 1);
      assert.equal(coverage.isWhole(Math.max(1, end)), isWhole);
    }),
    { seed, numRuns: 2000 },
  );
});
