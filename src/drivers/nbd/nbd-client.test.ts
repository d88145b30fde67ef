// Goal: whatever a server does, a read gives the right bytes or a typed error, in bounded time.
// Method: the fake server misbehaves in ways that real ones cannot be made to.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { encodeNbdReplyHeader, nbdChunkType, nbdCommand, nbdErrno } from "#formats/nbd-wire.ts";
import {
  fakeChunk,
  fakeDataChunk,
  fakeHoleChunk,
  FAKE_NBD_WRITABLE,
  startFakeNbdServer,
  type FakeNbdOptions,
} from "#testing/fake-nbd-server.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { openNbdClient, type NbdClientOptions } from "./nbd-client.ts";

const MIB = 1024 * 1024;

function createDisk(sizeBytes = 4 * MIB): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes);
  disk.write(0, createPrng(testSeed()).bytes(sizeBytes / 2));
  return disk;
}

function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => {
    assert.ok(isKluisError(error), String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

const quick: NbdClientOptions = { reconnectAttemptsMax: 2, requestTimeoutMs: 20_000 };

for (const structuredReplies of [true, false]) {
  const kind = structuredReplies ? "structured" : "simple";
  test(`nbd client: reads right with ${kind} replies, in many pieces at once`, async () => {
    const disk = createDisk();
    await using server = await startFakeNbdServer({ disk, structuredReplies });
    await using client = await openNbdClient(server.uri, quick);
    assert.equal(client.info.structuredReplies, structuredReplies);
    const whole = new Uint8Array(disk.sizeBytes);
    await client.read(0, whole);
    assert.ok(bytesEqual(whole, disk.bytes()));
    assert.equal(server.requests.length, 16);
  });
}

test("nbd client: puts a read together from pieces and holes in any order", async () => {
  const prng = createPrng(testSeed());
  const disk = createDisk();
  await using server = await startFakeNbdServer({ disk, shuffle: prng });
  await using client = await openNbdClient(server.uri, quick);
  const whole = new Uint8Array(disk.sizeBytes).fill(0xa5);
  await client.read(0, whole);
  assert.ok(bytesEqual(whole, disk.bytes()));
});

test("nbd client: keeps to the blocks of the server", async () => {
  const disk = createDisk();
  const blockSizes = { minBytes: 4096, preferredBytes: 4096, maxBytes: 65_536 + 4096 };
  await using server = await startFakeNbdServer({ disk, blockSizes });
  await using client = await openNbdClient(server.uri, quick);
  const target = new Uint8Array(300_001);
  await client.read(12_345, target);
  assert.ok(bytesEqual(target, disk.bytes().subarray(12_345, 312_346)));
  for (const request of server.requests) {
    assert.equal(request.offsetBytes % 4096, 0);
    assert.equal(request.lengthBytes % 4096, 0);
    assert.ok(request.lengthBytes <= blockSizes.maxBytes);
  }
});

test("nbd client: never has more requests in flight than allowed", async () => {
  const disk = createDisk();
  let inFlight = 0;
  let inFlightMost = 0;
  await using server = await startFakeNbdServer({
    disk,
    onRequest: () => {
      inFlight += 1;
      inFlightMost = Math.max(inFlightMost, inFlight);
      setImmediate(() => (inFlight -= 1));
      return undefined;
    },
  });
  await using client = await openNbdClient(server.uri, { ...quick, requestsInFlight: 3 });
  await Promise.all(
    Array.from({ length: 4 }, () => client.read(0, new Uint8Array(disk.sizeBytes))),
  );
  assert.ok(inFlightMost <= 3, String(inFlightMost));
});

test("nbd client: writes, zeroes, trims and flushes", async () => {
  const disk = createDisk();
  const model = disk.snapshot();
  await using server = await startFakeNbdServer({ disk, flags: FAKE_NBD_WRITABLE });
  await using client = await openNbdClient(server.uri, quick);
  const bytes = createPrng(7).bytes(MIB + 512);
  await client.write(512, bytes);
  await client.writeZeroes({ offsetBytes: MIB, lengthBytes: 8192 });
  await client.trim({ offsetBytes: 0, lengthBytes: 512 });
  await client.flush();
  model.write(512, bytes);
  model.zero(MIB, 8192);
  assert.ok(bytesEqual(disk.bytes(), model.bytes()));
  const commands = new Set(server.requests.map((request) => request.command));
  assert.deepEqual(
    commands,
    new Set([nbdCommand.write, nbdCommand.writeZeroes, nbdCommand.trim, nbdCommand.flush]),
  );
});

test("nbd client: translates errors of the server by what was asked", async () => {
  const errnoOf = new Map<number, number>();
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    flags: FAKE_NBD_WRITABLE,
    onRequest: ({ command }) => {
      const errno = errnoOf.get(command);
      return errno === undefined ? undefined : { errno };
    },
  });
  await using client = await openNbdClient(server.uri, quick);
  const sector = new Uint8Array(512);
  errnoOf.set(nbdCommand.read, nbdErrno.EIO);
  await assert.rejects(client.read(512, sector), (error) => {
    hasCode("DiskReadFailed")(error);
    assert.match(String(error), /Cannot read 512 bytes at 512 of .*: .* it is broken \(EIO\)/);
    return true;
  });
  errnoOf.set(nbdCommand.write, nbdErrno.ENOSPC);
  await assert.rejects(client.write(0, sector), hasCode("TargetNoSpace"));
  errnoOf.set(nbdCommand.write, nbdErrno.EPERM);
  await assert.rejects(client.write(0, sector), hasCode("TargetWriteFailed"));
  errnoOf.clear();
  await client.read(0, sector);
  assert.equal(server.connectionsSeen, 1, "errors of single requests keep the connection");
});

test("nbd client: refuses to write where the server does not let it", async () => {
  await using server = await startFakeNbdServer({ disk: createDisk() });
  await using client = await openNbdClient(server.uri, quick);
  await assert.rejects(client.write(0, new Uint8Array(512)), hasCode("NbdUnsupported"));
  await assert.rejects(
    client.blockStatus({ offsetBytes: 0, lengthBytes: 512 }),
    hasCode("NbdUnsupported"),
  );
});

test("nbd client: reconnects and sends unanswered reads again", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: (_, count) => (count % 7 === 0 ? "hang-up" : undefined),
  });
  await using client = await openNbdClient(server.uri, quick);
  const whole = new Uint8Array(disk.sizeBytes);
  await client.read(0, whole);
  assert.ok(bytesEqual(whole, disk.bytes()));
  assert.ok(server.connectionsSeen > 1);
});

test("nbd client: takes a server that shuts down for a lost one", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: (_, count) => (count === 3 ? { errno: nbdErrno.ESHUTDOWN } : undefined),
  });
  await using client = await openNbdClient(server.uri, quick);
  const whole = new Uint8Array(disk.sizeBytes);
  await client.read(0, whole);
  assert.ok(bytesEqual(whole, disk.bytes()));
  assert.equal(server.connectionsSeen, 2);
});

test("nbd client: gives up on a server that stays away, and stays failed", async () => {
  await using server = await startFakeNbdServer({ disk: createDisk() });
  await using client = await openNbdClient(server.uri, quick);
  await server.stop();
  await assert.rejects(client.read(0, new Uint8Array(512)), hasCode("NbdUnavailable"));
  await assert.rejects(client.read(0, new Uint8Array(512)), hasCode("NbdUnavailable"));
});

test("nbd client: a request that kills every server fails in bounded attempts", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: ({ offsetBytes }) => (offsetBytes === 0 ? "hang-up" : undefined),
  });
  await using client = await openNbdClient(server.uri, { ...quick, reconnectAttemptsMax: 4 });
  await assert.rejects(client.read(0, new Uint8Array(512)), hasCode("NbdUnavailable"));
  assert.ok(server.connectionsSeen <= 6, String(server.connectionsSeen));
});

test("nbd client: refuses another export behind the same address", async () => {
  const options = { disk: createDisk() };
  await using server = await startFakeNbdServer(options);
  await using client = await openNbdClient(server.uri, quick);
  options.disk = createDisk(2 * MIB);
  server.hangUp();
  await assert.rejects(client.read(0, new Uint8Array(512)), hasCode("ImageChangedDuringRead"));
});

test("nbd client: does not reconnect over writes that are not durable", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({ disk, flags: FAKE_NBD_WRITABLE });
  await using client = await openNbdClient(server.uri, quick);
  await client.write(0, new Uint8Array(512));
  await client.flush();
  server.hangUp();
  await client.read(0, new Uint8Array(512));
  await client.write(0, new Uint8Array(512));
  server.hangUp();
  await assert.rejects(client.flush(), hasCode("NbdUnavailable"));
});

test("nbd client: a server that does not answer is dropped after the time allowed", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: (_, count) => (count === 1 ? "silence" : undefined),
  });
  await using client = await openNbdClient(server.uri, {
    reconnectAttemptsMax: 10,
    requestTimeoutMs: 100,
  });
  const sector = new Uint8Array(512);
  await client.read(0, sector);
  assert.ok(bytesEqual(sector, disk.bytes().subarray(0, 512)));
  assert.ok(server.connectionsSeen >= 2);
});

test("nbd client: an aborted read rejects at once and its buffer is left alone", async () => {
  const disk = createDisk();
  const late = Promise.withResolvers<Uint8Array>();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: (_, count) => (count === 1 ? late.promise : undefined),
  });
  await using client = await openNbdClient(server.uri, quick);
  const controller = new AbortController();
  const target = new Uint8Array(4096).fill(0xa5);
  const read = client.read(0, target, controller.signal);
  await client.read(4096, new Uint8Array(4096));
  controller.abort(new Error("enough"));
  await assert.rejects(read, /enough/);
  const { cookie } = server.requests[0] ?? { cookie: 0 };
  const none = fakeChunk(cookie, nbdChunkType.none, new Uint8Array(0), true);
  late.resolve(concatBytes([fakeDataChunk(cookie, 0, new Uint8Array(4096)), none]));
  await client.read(4096, new Uint8Array(4096));
  assert.ok(target.every((byte) => byte === 0xa5));
});

test("nbd client: disposing rejects what is under way with Cancelled and says goodbye", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    onRequest: ({ command }) => (command === nbdCommand.read ? "silence" : undefined),
  });
  const client = await openNbdClient(server.uri, quick);
  const read = assert.rejects(client.read(0, new Uint8Array(512)), hasCode("Cancelled"));
  await client[Symbol.asyncDispose]();
  await read;
  await assert.rejects(client.read(0, new Uint8Array(512)), { name: "AssertionError" });
});

test("nbd client: joins the status of several contexts", async () => {
  const disk = createDisk();
  await using server = await startFakeNbdServer({
    disk,
    contexts: {
      "base:allocation": () => [
        { lengthBytes: 1000, flags: 0 },
        { lengthBytes: 3000, flags: 3 },
      ],
      "qemu:allocation-depth": () => [
        { lengthBytes: 500, flags: 1 },
        { lengthBytes: 2 * MIB, flags: 2 },
      ],
    },
  });
  const metaContexts = ["qemu:allocation-depth", "base:allocation", "qemu:dirty-bitmap:x"];
  await using client = await openNbdClient(server.uri, { ...quick, metaContexts });
  assert.deepEqual(
    client.info.metaContexts.map(({ name }) => name),
    ["qemu:allocation-depth", "base:allocation"],
  );
  const runs = await client.blockStatus({ offsetBytes: 4096, lengthBytes: MIB });
  assert.deepEqual(runs, [
    { offsetBytes: 4096, lengthBytes: 500, flags: [1, 0] },
    { offsetBytes: 4596, lengthBytes: 500, flags: [2, 0] },
    { offsetBytes: 5096, lengthBytes: 3000, flags: [2, 3] },
  ]);
});

/** Replies to the first read that break the protocol. */
const lies: Readonly<Record<string, (cookie: number) => Uint8Array>> = {
  "no reply": () => new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n"),
  "a cookie that was not sent": () => fakeDataChunk(99, 0, new Uint8Array(4096)),
  "a simple reply": (cookie) => encodeNbdReplyHeader({ kind: "simple", cookie, errno: 0 }),
  "data before the range": (cookie) => fakeDataChunk(cookie, 0, new Uint8Array(4096)),
  "data behind the range": (cookie) => fakeDataChunk(cookie, 8192, new Uint8Array(4096)),
  "too much data": (cookie) => fakeDataChunk(cookie, 4096, new Uint8Array(4097)),
  "no data": (cookie) => fakeChunk(cookie, nbdChunkType.none, new Uint8Array(0), true),
  "half of the data": (cookie) =>
    concatBytes([
      fakeDataChunk(cookie, 4096, new Uint8Array(2048)),
      fakeChunk(cookie, nbdChunkType.none, new Uint8Array(0), true),
    ]),
  "the same data twice": (cookie) =>
    concatBytes([
      fakeDataChunk(cookie, 4096, new Uint8Array(2048)),
      fakeDataChunk(cookie, 5120, new Uint8Array(2048)),
    ]),
  "a hole of no length": (cookie) => fakeHoleChunk(cookie, 4096, 0),
  "a huge hole": (cookie) => fakeHoleChunk(cookie, 4096, 0xffff_ffff),
  "an unknown chunk": (cookie) => fakeChunk(cookie, 77, new Uint8Array(4), true),
  "an empty chunk that goes on": (cookie) =>
    fakeChunk(cookie, nbdChunkType.none, new Uint8Array(0), false),
  "a status": (cookie) => fakeChunk(cookie, nbdChunkType.blockStatus, new Uint8Array(12), true),
  "an error that is none": (cookie) =>
    fakeChunk(cookie, nbdChunkType.error, new Uint8Array(6), true),
  "a giant error": (cookie) =>
    encodeNbdReplyHeader({
      kind: "chunk",
      cookie,
      type: nbdChunkType.error,
      done: true,
      payloadBytes: 0xffff_ffff,
    }),
};

for (const [name, lie] of Object.entries(lies)) {
  test(`nbd client: refuses ${name}, for good`, async () => {
    const options: FakeNbdOptions = {
      disk: createDisk(),
      onRequest: ({ cookie }) => lie(cookie),
    };
    await using server = await startFakeNbdServer(options);
    await using client = await openNbdClient(server.uri, quick);
    const reads = [client.read(4096, new Uint8Array(4096)), client.read(0, new Uint8Array(512))];
    const outcomes = await Promise.allSettled(reads);
    for (const outcome of outcomes) {
      assert.equal(outcome.status, "rejected");
      hasCode("NbdProtocol")(outcome.reason);
    }
    assert.equal(server.connectionsSeen, 1, "a server that lies is not asked again");
  });
}

test("nbd client: refuses a server of another kind, and one that says nothing", async () => {
  const disk = createDisk();
  const http = new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n");
  for (const [greeting, connectTimeoutMs, code] of [
    [http, 20_000, "NbdProtocol"],
    [new Uint8Array(0), 200, "NbdUnavailable"],
  ] as const) {
    await using server = await startFakeNbdServer({ disk, greeting });
    await assert.rejects(openNbdClient(server.uri, { connectTimeoutMs }), hasCode(code));
  }
  const nowhere = "nbd+unix:///?socket=/nonexistent/socket";
  await assert.rejects(openNbdClient(nowhere), hasCode("NbdUnavailable"));
});

test("nbd client: opening can be aborted", async () => {
  await using server = await startFakeNbdServer({
    disk: createDisk(),
    greeting: new Uint8Array(0),
  });
  const controller = new AbortController();
  const opening = openNbdClient(server.uri, { signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(opening, /enough/);
  await assert.rejects(openNbdClient(server.uri, { signal: controller.signal }), /enough/);
});
