// Goal: the handshake codec takes back what it gives, and answers any other bytes with a typed
// error. Method: round trips and random bytes with fast-check.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import {
  encodeNbdBlockSizes,
  encodeNbdExportInfo,
  encodeNbdGreeting,
  encodeNbdInfoRequest,
  encodeNbdMetaContext,
  encodeNbdMetaContextRequest,
  encodeNbdOption,
  encodeNbdOptionReply,
  nbdOption,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_REPLY_BYTES_MAX,
  NBD_OPTION_REPLY_HEADER_BYTES,
  parseNbdGreeting,
  parseNbdInfo,
  parseNbdMetaContext,
  parseNbdOptionHeader,
  parseNbdOptionReplyHeader,
  parseNbdServer,
} from "./nbd-handshake.ts";
import { viewOf } from "./nbd-wire.ts";

const seed = testSeed();
const uint32 = fc.nat({ max: 0xffff_ffff });

test("nbd handshake: greetings of the fixed newstyle are taken, older ones refused", () => {
  assert.deepEqual(parseNbdGreeting(encodeNbdGreeting(3)), { noZeroes: true });
  assert.deepEqual(parseNbdGreeting(encodeNbdGreeting(1)), { noZeroes: false });
  const unsupported = (error: unknown): boolean => isKluisError(error, "NbdUnsupported");
  assert.throws(() => parseNbdGreeting(encodeNbdGreeting(0)), unsupported);
  const old = encodeNbdGreeting(3);
  viewOf(old).setBigUint64(8, 0x0000_4202_8186_1253n);
  assert.throws(() => parseNbdGreeting(old), unsupported);
  const http = new TextEncoder().encode("HTTP/1.1 400 Bad Request").subarray(0, 18);
  assert.throws(
    () => parseNbdGreeting(http),
    (error) => isKluisError(error, "NbdProtocol"),
  );
});

test("nbd handshake: options, replies and information come back as they were", () => {
  fc.assert(
    fc.property(uint32, uint32, fc.uint8Array({ maxLength: 99 }), (option, type, data) => {
      const sent = encodeNbdOption(nbdOption.go, data);
      const header = sent.subarray(0, NBD_OPTION_HEADER_BYTES);
      const payloadBytes = data.byteLength;
      assert.deepEqual(parseNbdOptionHeader(header), { option: nbdOption.go, payloadBytes });
      const reply = encodeNbdOptionReply(option, type, data);
      const replyHeader = reply.subarray(0, NBD_OPTION_REPLY_HEADER_BYTES);
      assert.deepEqual(parseNbdOptionReplyHeader(replyHeader), { option, type, payloadBytes });
      assert.deepEqual(reply.subarray(NBD_OPTION_REPLY_HEADER_BYTES), data);
    }),
    { seed },
  );
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat({ max: 0xffff }), (sizeBytes, flags) => {
      const info = parseNbdInfo(encodeNbdExportInfo(sizeBytes, flags));
      assert.deepEqual(info, { kind: "export", sizeBytes, flags });
    }),
    { seed },
  );
  const sizes = { minBytes: 512, preferredBytes: 4096, maxBytes: 1024 * 1024 };
  assert.deepEqual(parseNbdInfo(encodeNbdBlockSizes(sizes)), { kind: "block-sizes", sizes });
  const context = { id: 42, name: "qemu:dirty-bitmap:b0" };
  assert.deepEqual(parseNbdMetaContext(encodeNbdMetaContext(context)), context);
});

test("nbd handshake: any payload gives a value or a typed error, never another one", () => {
  const parsers = [parseNbdInfo, parseNbdMetaContext, parseNbdServer];
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat({ max: 4 }), (bytes, type) => {
      if (bytes.byteLength >= 2) viewOf(bytes).setUint16(0, type);
      for (const parse of parsers) {
        try {
          parse(bytes);
        } catch (error) {
          const known = isKluisError(error, "NbdProtocol") || isKluisError(error, "NbdUnsupported");
          assert.ok(known, String(error));
        }
      }
    }),
    { seed, numRuns: 2000 },
  );
});

test("nbd handshake: refuses block sizes that make no sense and replies that are too long", () => {
  const isProtocol = (error: unknown): boolean => isKluisError(error, "NbdProtocol");
  for (const [minBytes, preferredBytes, maxBytes] of [
    [0, 1, 1],
    [3, 4096, 4096],
    [512, 256, 4096],
    [512, 4096, 1024],
    [2 ** 20, 2 ** 20, 2 ** 20],
  ] as const) {
    const payload = encodeNbdBlockSizes({ minBytes, preferredBytes, maxBytes });
    assert.throws(() => parseNbdInfo(payload), isProtocol);
  }
  const header = encodeNbdOptionReply(1, 1, new Uint8Array(NBD_OPTION_REPLY_BYTES_MAX + 1));
  const fixed = header.subarray(0, NBD_OPTION_REPLY_HEADER_BYTES);
  assert.throws(() => parseNbdOptionReplyHeader(fixed), isProtocol);
});

test("nbd handshake: names are bytes of UTF-8 with their length", () => {
  assert.deepEqual(encodeNbdInfoRequest("é"), new Uint8Array([0, 0, 0, 2, 0xc3, 0xa9, 0, 1, 0, 3]));
  assert.deepEqual(
    encodeNbdMetaContextRequest("a", ["b:", "c"]),
    new Uint8Array([0, 0, 0, 1, 97, 0, 0, 0, 2, 0, 0, 0, 2, 98, 58, 0, 0, 0, 1, 99]),
  );
  assert.throws(
    () => encodeNbdInfoRequest("x".repeat(4097)),
    (error) => isKluisError(error, "ArgumentInvalid"),
  );
  const server = new Uint8Array([0, 0, 0, 1, 97, 98, 99]);
  assert.equal(parseNbdServer(server), "a");
});
