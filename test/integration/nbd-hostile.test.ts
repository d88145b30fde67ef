// Goal: no server, however hostile, can make the client hang, crash, grow without bound, or give
// bytes of a read it did not get. Method: random servers: garbage at every step of the handshake,
// replies with flipped bits, and connections cut anywhere; every call must end in bounded time with
// the right bytes or a typed error.
import assert from "node:assert/strict";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { systemClock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { listNbdExports, openNbdClient, type NbdClientOptions } from "#drivers/nbd/nbd-client.ts";
import {
  encodeNbdGreeting,
  encodeNbdOptionReply,
  nbdOption,
  nbdOptionReply,
} from "#formats/nbd-handshake.ts";
import { encodeNbdReplyHeader, nbdCommand } from "#formats/nbd-wire.ts";
import {
  fakeChunk,
  fakeDataChunk,
  fakeHoleChunk,
  startFakeNbdServer,
  type FakeAnswer,
} from "#testing/fake-nbd-server.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed, type Prng } from "#testing/seed.ts";
import { createTempFolder } from "#testing/temp-folder.ts";

const MIB = 1024 * 1024;
const ROUNDS = process.env["KLUIS_LONG"] === undefined ? 100 : 2000;
/** What buffers hold before a read; never part of the disk. */
const UNTOUCHED = 0xee;
/** Far above every limit that the options below allow. */
const PATIENCE_MS = 20_000;

const hasty: NbdClientOptions = {
  connectTimeoutMs: 150,
  requestTimeoutMs: 150,
  reconnectAttemptsMax: 1,
};

const expectedCodes: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "NbdUnavailable",
  "NbdProtocol",
  "NbdUnsupported",
  "DiskReadFailed",
  "ImageNotFound",
  "ImageChangedDuringRead",
]);

function assertExpected(error: unknown): void {
  assert.ok(isKluisError(error), `not typed: ${String((error as Error).stack)}`);
  assert.ok(expectedCodes.has(error.code), `${error.code}: ${error.message}`);
}

/** Rejects where `work` does not end in time. */
async function inTime(work: Promise<void>): Promise<void> {
  const patience = new AbortController();
  const late = systemClock.sleep(PATIENCE_MS, patience.signal).then(
    () => {
      throw new Error("it hangs");
    },
    () => undefined,
  );
  await Promise.race([work, late]);
  patience.abort();
}

/** A reply to a read: right, wrong in one of many ways, or nothing. */
function randomAnswer(
  prng: Prng,
  disk: MemoryDisk,
  request: Parameters<typeof rightReply>[1],
): FakeAnswer {
  const { cookie, lengthBytes, offsetBytes } = request;
  const right = rightReply(disk, request);
  switch (prng.below(12)) {
    case 0:
      return prng.bytes(prng.below(200));
    case 1:
      return "silence";
    case 2:
      return "hang-up";
    case 3:
      return { errno: prng.below(200) };
    case 4:
      return right.subarray(0, prng.below(right.byteLength));
    case 5: {
      // Bits of headers only: what the data is, no client can tell.
      const spoilt = right.slice();
      const at = prng.below(28);
      spoilt[at] = (spoilt[at] ?? 0) ^ (1 << prng.below(8));
      return spoilt;
    }
    case 6:
      return concatBytes([right, right]);
    case 7:
      return fakeHoleChunk(cookie, offsetBytes + prng.below(8192), prng.uint32());
    case 8:
      return fakeDataChunk(cookie, offsetBytes, new Uint8Array(prng.below(2 * lengthBytes)));
    case 9:
      return fakeChunk(
        cookie,
        prng.uint32() & 0xffff,
        prng.bytes(prng.below(64)),
        prng.below(2) === 0,
      );
    case 10:
      return encodeNbdReplyHeader({ kind: "simple", cookie, errno: prng.below(2) });
    default:
      return undefined;
  }
}

function rightReply(
  disk: MemoryDisk,
  request: { readonly cookie: number; readonly offsetBytes: number; readonly lengthBytes: number },
): Uint8Array {
  const data = new Uint8Array(request.lengthBytes);
  disk.read(request.offsetBytes, data);
  const none = fakeChunk(request.cookie, 0, new Uint8Array(0), true);
  return concatBytes([fakeDataChunk(request.cookie, request.offsetBytes, data), none]);
}

test("hostile NBD server: reads give the right bytes or a typed error, in time", async () => {
  const prng = createPrng(testSeed());
  const disk = new MemoryDisk(MIB);
  // Every byte is odd: neither what a server makes up (zeros) nor what was never filled.
  disk.write(
    0,
    prng.bytes(MIB).map((byte) => byte | 1),
  );
  const whole = disk.bytes();
  const outcomes = { right: 0, failed: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    await using server = await startFakeNbdServer({
      disk,
      onRequest: (request) =>
        request.command === nbdCommand.read && prng.below(4) === 0
          ? randomAnswer(prng, disk, request)
          : undefined,
    });
    const play = async (): Promise<void> => {
      // This server is proper until it is asked for data, and the machine may be busy.
      await using client = await openNbdClient(server.uri, { ...hasty, connectTimeoutMs: 10_000 });
      await Promise.all(
        Array.from({ length: 8 }, async () => {
          const lengthBytes = 1 + prng.below(100_000);
          const offsetBytes = prng.below(MIB - lengthBytes);
          const target = new Uint8Array(lengthBytes).fill(UNTOUCHED);
          try {
            await client.read(offsetBytes, target);
          } catch (error) {
            assertExpected(error);
            outcomes.failed += 1;
            return;
          }
          const expected = whole.subarray(offsetBytes, offsetBytes + lengthBytes);
          assert.ok(bytesEqual(target, expected) || isMadeUp(target, expected), "right bytes");
          outcomes.right += 1;
        }),
      );
    };
    await inTime(play());
  }
  assert.ok(outcomes.right > 0 && outcomes.failed > 0, JSON.stringify(outcomes));
});

/**
 * Whether a difference is one that the server lied about in well-formed replies (zeros as data or as
 * a hole): no client can tell. Never a byte that was not filled, or of another read.
 */
function isMadeUp(target: Uint8Array, expected: Uint8Array): boolean {
  return target.every((byte, index) => byte === expected[index] || byte === 0);
}

test("hostile NBD server: garbage in the handshake gives a typed error, in time", async () => {
  const prng = createPrng(testSeed());
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  const uri = `nbd+unix:///?socket=${socketPath}`;
  for (let round = 0; round < ROUNDS; round++) {
    await using server = await listen(socketPath, randomHandshake(prng));
    await inTime(
      (async () => {
        try {
          await using client = await openNbdClient(uri, {
            ...hasty,
            metaContexts: ["base:allocation"],
          });
          assert.ok(client.info.sizeBytes >= 0);
        } catch (error) {
          assertExpected(error);
        }
        try {
          await listNbdExports(uri, hasty);
        } catch (error) {
          assertExpected(error);
        }
      })(),
    );
    assert.ok(server.listening);
  }
});

/** A greeting and replies to options: mostly well-formed, so that the later steps are reached. */
function randomHandshake(prng: Prng): Uint8Array {
  const parts: Uint8Array[] = [prng.below(8) === 0 ? prng.bytes(18) : encodeNbdGreeting(3)];
  const options = [
    nbdOption.structuredReply,
    nbdOption.setMetaContext,
    nbdOption.go,
    nbdOption.list,
  ];
  const types = [...Object.values(nbdOptionReply), prng.uint32()];
  for (let count = prng.below(12); count > 0; count--) {
    const option = prng.below(8) === 0 ? prng.uint32() : options[prng.below(options.length)];
    const type = types[prng.below(types.length)];
    const payload = prng.bytes(prng.below(5) === 0 ? prng.below(20_000) : prng.below(20));
    if (prng.below(2) === 0 && payload.byteLength > 1) payload.set([0, prng.below(2) * 3]);
    parts.push(encodeNbdOptionReply(option ?? 0, type ?? 0, payload));
  }
  return concatBytes(parts);
}

async function listen(socketPath: string, says: Uint8Array): Promise<Server & AsyncDisposable> {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.on("data", () => undefined);
    socket.write(says);
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  return server;
}

test("hostile NBD server: endless replies to an option end by count", async () => {
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  const reply = encodeNbdOptionReply(
    nbdOption.list,
    nbdOptionReply.server,
    new Uint8Array([0, 0, 0, 1, 97]),
  );
  const flood = concatBytes([encodeNbdGreeting(3), ...Array.from({ length: 20_000 }, () => reply)]);
  await using server = await listen(socketPath, flood);
  await assert.rejects(listNbdExports(`nbd+unix:///?socket=${socketPath}`), (error) =>
    isKluisError(error, "NbdProtocol"),
  );
  assert.ok(server.listening);
});
