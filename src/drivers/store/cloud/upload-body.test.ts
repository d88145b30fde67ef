// Goal: what is sent is the content, in copies, as often as wanted, and never after the call.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { pieceBytesMax, UploadBody } from "./upload-body.ts";

test("upload body: any parts come out whole, twice, in pieces of bounded size", async () => {
  const random = createSeededRandom("upload body");
  for (let round = 0; round < 30; round++) {
    const sizes = Array.from({ length: random.integer(0, 12) }, () =>
      random.pick([0, 1, 4096, pieceBytesMax - 1, pieceBytesMax, pieceBytesMax + 1]),
    );
    const parts = sizes.map((size) => random.bytes(size));
    const whole = concatBytes(parts);
    const body = new UploadBody(parts);
    assert.equal(body.sizeBytes, whole.byteLength);
    const digest = createHash("sha256").update(whole).digest();
    assert.ok(bytesEqual(body.digest("sha256"), digest));
    for (const _ of [1, 2]) {
      let moved = 0;
      const pieces: Uint8Array[] = [];
      for await (const piece of body.open(() => moved++)) pieces.push(piece as Uint8Array);
      assert.ok(bytesEqual(concatBytes(pieces), whole));
      assert.ok(pieces.every((piece) => piece.byteLength <= pieceBytesMax));
      assert.equal(moved, pieces.length);
    }
  }
});

test("upload body: pieces are copies, and none comes after the call has ended", async () => {
  const part = new Uint8Array(3 * pieceBytesMax).fill(1);
  const body = new UploadBody([part]);
  const pieces = body.open(() => {})[Symbol.asyncIterator]();
  const { value } = (await pieces.next()) as { value: Uint8Array };
  body.close();
  part.fill(2);
  assert.ok(value.every((byte) => byte === 1));
  const rest = async (): Promise<void> => {
    while ((await pieces.next()).done !== true);
  };
  await assert.rejects(rest(), /the call that sent this has ended/);
});
