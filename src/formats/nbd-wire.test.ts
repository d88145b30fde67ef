// Goal: the codec takes back what it gives, and answers any other bytes with a typed error.
// Method: round trips and random bytes with fast-check.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import {
  encodeNbdReplyHeader,
  encodeNbdRequest,
  encodeNbdStatus,
  nbdCommand,
  nbdErrnoName,
  NBD_REQUEST_BYTES,
  parseNbdErrorChunk,
  parseNbdReplyHeader,
  parseNbdRequest,
  parseNbdStatus,
  printable,
  viewOf,
  type NbdReplyHeader,
} from "./nbd-wire.ts";

const seed = testSeed();
const uint32 = fc.nat({ max: 0xffff_ffff });
const uint53 = fc.maxSafeNat();

/** Records as object literals make them, which deepEqual compares with. */
function plainRecord<T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record(model, { noNullPrototype: true });
}

test("nbd wire: a request comes back as it was", () => {
  const request = plainRecord({
    command: fc.constantFrom(...Object.values(nbdCommand)),
    flags: fc.nat({ max: 0xffff }),
    cookie: uint53,
    offsetBytes: uint53,
    lengthBytes: uint32,
  });
  fc.assert(
    fc.property(request, fc.nat({ max: 9 }), (value, at) => {
      const view = new DataView(new ArrayBuffer(NBD_REQUEST_BYTES + 9));
      encodeNbdRequest(value, view, at);
      assert.deepEqual(parseNbdRequest(view, at), value);
    }),
    { seed },
  );
});

test("nbd wire: a reply header comes back as it was, and no cut of it does", () => {
  const simple = plainRecord({
    kind: fc.constant("simple" as const),
    cookie: uint53,
    errno: uint32,
  });
  const chunk = plainRecord({
    kind: fc.constant("chunk" as const),
    cookie: uint53,
    type: fc.nat({ max: 0xffff }),
    done: fc.boolean(),
    payloadBytes: uint32,
  });
  fc.assert(
    fc.property(fc.oneof(simple, chunk), (value: NbdReplyHeader) => {
      const bytes = encodeNbdReplyHeader(value);
      assert.deepEqual(parseNbdReplyHeader(viewOf(bytes), 0, bytes.byteLength), value);
      for (let end = 0; end < bytes.byteLength; end++) {
        assert.equal(parseNbdReplyHeader(viewOf(bytes), 0, end), undefined);
      }
    }),
    { seed },
  );
});

test("nbd wire: a block status comes back as it was", () => {
  const descriptor = plainRecord({
    lengthBytes: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    flags: uint32,
  });
  fc.assert(
    fc.property(uint32, fc.array(descriptor, { minLength: 1 }), (contextId, descriptors) => {
      const parsed = parseNbdStatus(encodeNbdStatus(contextId, descriptors));
      assert.deepEqual(parsed, { contextId, descriptors });
    }),
    { seed },
  );
});

test("nbd wire: any bytes give a value or NbdProtocol, never another error", () => {
  const parsers = [
    (bytes: Uint8Array) => parseNbdStatus(bytes),
    (bytes: Uint8Array) => parseNbdErrorChunk(bytes),
    (bytes: Uint8Array) => parseNbdReplyHeader(viewOf(bytes), 0, bytes.byteLength),
  ];
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      for (const parse of parsers) {
        try {
          parse(bytes);
        } catch (error) {
          assert.ok(isKluisError(error, "NbdProtocol"), String(error));
        }
      }
    }),
    { seed, numRuns: 2000 },
  );
});

test("nbd wire: refuses empty extents, cookies beyond 2^53 and errors that are none", () => {
  const isProtocol = (error: unknown): boolean => isKluisError(error, "NbdProtocol");
  assert.throws(
    () => parseNbdStatus(encodeNbdStatus(1, [{ lengthBytes: 0, flags: 0 }])),
    isProtocol,
  );
  assert.throws(() => parseNbdStatus(encodeNbdStatus(1, [])), isProtocol);
  const reply = encodeNbdReplyHeader({ kind: "simple", cookie: 1, errno: 0 });
  reply[8] = 0xff;
  assert.throws(() => parseNbdReplyHeader(viewOf(reply), 0, 16), isProtocol);
  assert.throws(() => parseNbdErrorChunk(new Uint8Array(6)), isProtocol);
  assert.throws(() => parseNbdErrorChunk(new Uint8Array([0, 0, 0, 5, 0, 9, 65])), isProtocol);
  assert.deepEqual(parseNbdErrorChunk(new Uint8Array([0, 0, 0, 5, 0, 1, 65, 1, 2])), {
    errno: 5,
    message: "A",
  });
});

test("nbd wire: a server's text cannot act on a terminal", () => {
  assert.equal(printable(new TextEncoder().encode("a\u001B[2Jb\n\u202E")), "a?[2Jb??");
  assert.equal(nbdErrnoName(5), "EIO");
  assert.equal(nbdErrnoName(4242), "error 4242");
});
