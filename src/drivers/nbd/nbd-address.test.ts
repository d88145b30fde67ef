// Goal: every URI of the NBD specification that we support means the right place, also with odd
// characters; every other one is refused with a reason.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { formatNbdUri, isNbdUri, parseNbdUri, type NbdAddress } from "./nbd-address.ts";

test("nbd address: parses the forms of the specification", () => {
  const cases: readonly (readonly [string, NbdAddress])[] = [
    ["nbd://host", { transport: "tcp", host: "host", port: 10_809, exportName: "" }],
    ["nbd://host/", { transport: "tcp", host: "host", port: 10_809, exportName: "" }],
    ["nbd://10.0.0.1:99/a/b", { transport: "tcp", host: "10.0.0.1", port: 99, exportName: "a/b" }],
    ["nbd://[::1]:99/a", { transport: "tcp", host: "::1", port: 99, exportName: "a" }],
    ["nbd+unix:///?socket=/run/s", { transport: "unix", socketPath: "/run/s", exportName: "" }],
    [
      "nbd+unix:///my%20disk?socket=/a+b%3Fc",
      { transport: "unix", socketPath: "/a+b?c", exportName: "my disk" },
    ],
  ];
  for (const [text, address] of cases) {
    assert.ok(isNbdUri(text));
    assert.deepEqual(parseNbdUri(text), address, text);
  }
});

test("nbd address: refuses what it cannot mean", () => {
  const cases: readonly (readonly [string, ErrorCode])[] = [
    ["", "ArgumentInvalid"],
    ["/dev/nbd0", "ArgumentInvalid"],
    ["http://host/", "ArgumentInvalid"],
    ["nbd:///name", "ArgumentInvalid"],
    ["nbd://user:secret@host/", "ArgumentInvalid"],
    ["nbd://host/?socket=/s", "ArgumentInvalid"],
    ["nbd+unix:///name", "ArgumentInvalid"],
    ["nbd+unix://host/name?socket=/s", "ArgumentInvalid"],
    ["nbd+unix:///name?socket=/s&tls=1", "ArgumentInvalid"],
    ["nbd+unix:///%zz?socket=/s", "ArgumentInvalid"],
    ["nbds://host/", "NbdUnsupported"],
    ["nbd+vsock://1/", "NbdUnsupported"],
  ];
  for (const [text, code] of cases) {
    assert.throws(
      () => parseNbdUri(text),
      (error) => isKluisError(error, code),
      text,
    );
  }
});

test("nbd address: a formatted address means the same place", () => {
  const text = fc.string({ unit: "grapheme", maxLength: 20 }).filter((s) => s.isWellFormed());
  const unix = fc.record(
    {
      transport: fc.constant("unix" as const),
      socketPath: text.map((s) => `/${s}`),
      exportName: text.filter((s) => !/^\/|(^|\/)\.{1,2}(\/|$)/.test(s)),
    },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(unix, (address) => {
      assert.deepEqual(parseNbdUri(formatNbdUri(address)), address);
    }),
    { seed: testSeed(), numRuns: 500 },
  );
});
