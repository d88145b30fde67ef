/** Goal: a marker has one form, and every other is refused with a typed error. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { encodeSecondaryMarker, parseSecondaryMarker } from "./secondary-marker.ts";

const marker = { role: "secondary", vaultId: new Uint8Array(16).fill(0xa5) } as const;

test("secondary marker: reads what it writes", () => {
  assert.deepEqual(parseSecondaryMarker(encodeSecondaryMarker(marker)), marker);
});

test("secondary marker: refuses every other byte string", () => {
  const bytes = encodeSecondaryMarker(marker);
  for (let at = 0; at < bytes.byteLength; at++) {
    for (const flip of [1, 0x20, 0x80]) {
      const flipped = Uint8Array.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ flip;
      const isOther = (error: unknown): boolean => {
        return isKluisError(error, "ObjectCorrupt") || isKluisError(error, "StoreFormatNewer");
      };
      try {
        // A flip inside of the id gives the marker of another vault.
        assert.notDeepEqual(parseSecondaryMarker(flipped), marker);
      } catch (error) {
        assert.ok(isOther(error), `flip ${flip} at ${at}: ${String(error)}`);
      }
    }
    assert.throws(
      () => parseSecondaryMarker(bytes.subarray(0, at)),
      (e) => isKluisError(e),
    );
  }
});
