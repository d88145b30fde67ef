// Goal: errors of connections are told from bugs, whatever wraps them, and repeat nothing of a request.
import assert from "node:assert/strict";
import { test } from "node:test";

import { connectionReason, failureOfStatus, parseRetryAfterMs } from "./http-failures.ts";

test("http failures: a connection's error is known by its code, its name or its cause", () => {
  const reset = Object.assign(new Error("read ECONNRESET secret"), { code: "ECONNRESET" });
  const wrapped = new Error("secret", { cause: new Error("secret", { cause: reset }) });
  const named = Object.assign(new Error("secret"), { name: "TimeoutError" });
  const certificate = Object.assign(new Error("x"), { code: "DEPTH_ZERO_SELF_SIGNED_CERT" });
  const known = [reset, wrapped, named, certificate, new Error("socket hang up")];
  for (const error of known) {
    const reason = connectionReason(error);
    assert.ok(reason !== undefined && !reason.includes("secret"), reason);
  }
  const endless = new Error("x");
  endless.cause = endless;
  for (const error of [new TypeError("x is no function"), endless]) {
    assert.equal(connectionReason(error), undefined);
  }
});

test("http failures: Retry-After is seconds, or nothing", () => {
  assert.equal(parseRetryAfterMs("7"), 7000);
  for (const header of [undefined, "", "-1", "1.5", "soon", "9".repeat(9)]) {
    assert.equal(parseRetryAfterMs(header), undefined, header);
  }
});

test("http failures: what may be sent again is told by the status, and strange words are not shown", () => {
  const kindOf = (status: number) =>
    failureOfStatus({ status, code: "x", retryAfterMs: undefined }).kind;
  for (const status of [200, 408, 429, 500, 502, 503, 504, 599]) {
    assert.equal(kindOf(status), "unavailable", String(status));
  }
  for (const status of [400, 404, 405, 409, 416, 501]) assert.equal(kindOf(status), "unsupported");
  assert.deepEqual([kindOf(401), kindOf(403), kindOf(507)], ["denied", "denied", "no-space"]);
  const failure = failureOfStatus({ status: 503, code: "a\u001b[2Jb", retryAfterMs: 1 });
  assert.deepEqual([failure.message, failure.retryAfterMs], ["the store answered 503", 1]);
});
