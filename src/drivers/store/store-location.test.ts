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

test("store location: the locked bucket of a WORM store names its control place", () => {
  const endpoint = "endpoint=http://127.0.0.1:9000";
  const text = `s3://locked/vm?${endpoint}&control=s3://beside/x&credentials=k`;
  const location = parseStoreLocation(text, "/w");
  assert.ok(location.kind === "s3" && typeof location.control === "object");
  assert.equal(location.text, `s3://locked/vm?${endpoint}&control=s3://beside/x`);
  const { bucket, prefix, credentialsFile, control } = location.control;
  assert.deepEqual([bucket, prefix, credentialsFile, control], ["beside", "x/", "/w/k", undefined]);
  assert.equal(location.control.text, `s3://beside/x?${endpoint}`);
  const gone = parseStoreLocation("s3://locked?control=none", "/w");
  assert.ok(gone.kind === "s3" && gone.control === "none");
  assert.equal(gone.text, "s3://locked?control=none");
  for (const bad of [
    "",
    "x",
    "s3://locked",
    "s3://locked/y",
    "/srv",
    "s3://a@b.c",
    "s3://b.c?x=y",
  ]) {
    const control = `s3://locked/x?control=${encodeURIComponent(bad)}`;
    assert.throws(
      () => parseStoreLocation(control, "/w"),
      (error) => isKluisError(error, "ArgumentInvalid"),
    );
  }
});

test("store location: buckets and containers with their prefix and parameters", () => {
  assert.deepEqual(parseStoreLocation("s3://my-bucket", "/w"), {
    kind: "s3",
    text: "s3://my-bucket",
    bucket: "my-bucket",
    prefix: "",
    endpoint: undefined,
    region: undefined,
    profile: undefined,
    isPathStyle: undefined,
    credentialsFile: undefined,
  });
  const query =
    "endpoint=http://127.0.0.1:9000/&region=eu&profile=p&path-style=false&credentials=k";
  assert.deepEqual(parseStoreLocation(`S3://b.c/x/Y/?${query}`, "/w"), {
    kind: "s3",
    text: "s3://b.c/x/Y?endpoint=http://127.0.0.1:9000",
    bucket: "b.c",
    prefix: "x/Y/",
    endpoint: "http://127.0.0.1:9000",
    region: "eu",
    profile: "p",
    isPathStyle: false,
    credentialsFile: "/w/k",
  });
  assert.deepEqual(parseStoreLocation("azblob://acc/vaults/a/b?credentials=/k", "/w"), {
    kind: "azblob",
    text: "azblob://acc/vaults/a/b",
    account: "acc",
    container: "vaults",
    prefix: "a/b/",
    endpoint: undefined,
    credentialsFile: "/k",
  });
});

test("store location: a secret in a URL is refused and not repeated", () => {
  const cases = [
    ["s3://AKIA:topsecret@bucket/x", "s3://bucket?secret=topsecret", "s3://b?topsecret"],
    ["azblob://acc/con?sv=1&sig=topsecret", "azblob://acc/con?sig=topsecret"],
    ["s3://bucket?endpoint=https://u:topsecret@h", "https://acc.blob.x/con?sig=topsecret"],
    ["azblob://topsecret@acc/con", "s3://bucket#topsecret", "azblob://x?topsecret#topsecret"],
  ].flat();
  for (const text of cases) {
    assert.throws(
      () => parseStoreLocation(text, "/"),
      (error) => isKluisError(error, "ArgumentInvalid") && !error.message.includes("topsecret"),
      text,
    );
  }
});

const long = "a".repeat(501);

test("store location: everything else is ArgumentInvalid", () => {
  const cases = [
    ["", "https://host/x", "file://host/x", "file:///a?b", "file:///a#b"],
    ["file:///a%2Fb", "file:///%zz", "a\0b", "file://[", "azblob://x", "azblob://acc/", "s3://"],
    ["s3://b", "s3://Bucket", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/a b", "s3:///a"],
    ["s3://bucket?x=1", "s3://bucket?region=a&region=b", "s3://bucket?region=", "s3://bucket#a"],
    ["s3://bucket?endpoint=ftp://h", "s3://bucket?endpoint=x", "s3://bucket?path-style=1"],
    ["s3://bucket?profile=a%0Ab", "s3://bucket?endpoint=http://h/?a", `s3://bucket/${long}`],
    ["azblob://acc/ab", "azblob://acc/a--b", "azblob://Acc/container", "azblob://acc/con?region=x"],
  ].flat();
  for (const text of cases) {
    assert.throws(
      () => parseStoreLocation(text, "/"),
      (error) => isKluisError(error, "ArgumentInvalid") && !error.message.includes("\0"),
      text,
    );
  }
});

const anyText = fc.oneof(
  fc.string(),
  fc
    .tuple(fc.constantFrom("s3://", "azblob://", "file://"), fc.webPath(), fc.webQueryParameters())
    .map(([scheme, path, query]) => `${scheme}account${path}?${query}`),
);

test("store location: any text is a path or refused", () => {
  fc.assert(
    fc.property(anyText, (text) => {
      try {
        const location = parseStoreLocation(text, "/w");
        assert.ok(location.kind !== "file" || location.path.startsWith("/"));
      } catch (error) {
        assert.ok(isKluisError(error, "ArgumentInvalid"), String(error));
      }
    }),
    { seed: testSeed() },
  );
});
