// Goal: what a user types as a store is understood or refused, never guessed.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { parseStoreLocation } from "./store-location.ts";

test("store location: paths and file URLs become absolute paths", () => {
  const cases: [string, string][] = [
    ["/srv/backup", "/srv/backup"],
    ["/srv/backup/", "/srv/backup"],
    ["backup", "/home/me/backup"],
    ["./a:b", "/home/me/a:b"],
    ["..", "/home"],
    ["file:///srv/my%20backup", "/srv/my backup"],
    ["FILE:///srv/x/../y/", "/srv/y"],
  ];
  for (const [text, path] of cases) {
    assert.deepEqual(parseStoreLocation(text, "/home/me"), { kind: "file", path }, text);
  }
});

test("store location: everything else is ArgumentInvalid", () => {
  const cases = [
    ["", "s3://bucket", "https://host/x", "file://host/x", "file:///a?b", "file:///a#b"],
    ["file:///a%2Fb", "file:///%zz", "a\0b", "file://[", "azblob://x"],
  ].flat();
  for (const text of cases) {
    assert.throws(
      () => parseStoreLocation(text, "/"),
      (error) => isKluisError(error, "ArgumentInvalid") && !error.message.includes("\0"),
      text,
    );
  }
});

test("store location: any text is a path or refused", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        assert.ok(parseStoreLocation(text, "/w").path.startsWith("/"));
      } catch (error) {
        assert.ok(isKluisError(error, "ArgumentInvalid"), String(error));
      }
    }),
    { seed: testSeed() },
  );
});
