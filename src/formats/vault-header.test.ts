// Goal: a header parses back; every damage is named; what is foreign or newer is told apart.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { flipBit } from "#testing/damage.ts";
import { testSeed } from "#testing/seed.ts";
import { encodeVaultHeader, parseVaultHeader, vaultHeaderBytesMax } from "./vault-header.ts";

const anyId = fc.uint8Array({ minLength: 16, maxLength: 16 });
const sample = encodeVaultHeader({ version: 1, vaultId: new Uint8Array(16).fill(0xa5) });

function errorOf(bytes: Uint8Array): KluisError {
  try {
    parseVaultHeader(bytes);
  } catch (error) {
    assert.ok(isKluisError(error));
    return error;
  }
  return assert.fail("it parses");
}

/** `body` closed with a right checksum. */
function sign(body: string): Uint8Array {
  const checksum = createHash("sha256").update(body).digest("hex");
  return Buffer.from(`${body},"sha256":"${checksum}"}\n`);
}

test("vault header: parses back", () => {
  fc.assert(
    fc.property(anyId, (vaultId) => {
      const header = { version: 1, vaultId };
      assert.deepEqual(parseVaultHeader(encodeVaultHeader(header)), header);
    }),
    { seed: testSeed() },
  );
});

test("vault header: every flipped bit is ObjectCorrupt", () => {
  for (let bit = 0; bit < sample.byteLength * 8; bit++) {
    assert.equal(errorOf(flipBit(sample, bit)).code, "ObjectCorrupt", `bit ${bit}`);
  }
});

test("vault header: every cut and every addition is an error", () => {
  for (let length = 0; length < sample.byteLength; length++) errorOf(sample.subarray(0, length));
  for (const more of ["\n", " ", "x".repeat(vaultHeaderBytesMax)]) {
    assert.equal(errorOf(Buffer.concat([sample, Buffer.from(more)])).code, "ObjectCorrupt");
  }
});

test("vault header: a newer version is named as such", () => {
  const newer = sign(`{"format":"kluis-vault","version":2,"vaultId":{"unlike":["version 1"]}`);
  const error = errorOf(newer);
  assert.equal(error.code, "StoreFormatNewer");
  assert.deepEqual(error.details, { version: 2, versionMax: 1 });
});

test("vault header: another program's file is StoreForeign", () => {
  const foreign = ["", "{}", '{"vault":true}', "\0\xff", "[1]", "x".repeat(10_000)];
  for (const text of foreign) assert.equal(errorOf(Buffer.from(text)).code, "StoreForeign");
  assert.equal(errorOf(sign(`{"format":"other"`)).code, "StoreForeign");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      assert.equal(errorOf(bytes).code, "StoreForeign");
    }),
    { seed: testSeed() },
  );
});

test("vault header: one content has one encoding", () => {
  const id = "a5".repeat(16);
  const others = [
    `{"format":"kluis-vault","version":1,"vaultId":"${id.toUpperCase()}"`,
    `{"format":"kluis-vault","version":1, "vaultId":"${id}"`,
    `{"format":"kluis-vault","version":1,"vaultId":"${id}","more":1`,
    `{"format":"kluis-vault","version":1,"vaultId":"${id}","version":1`,
    `{"format":"kluis-vault","version":1.0,"vaultId":"${id}"`,
    `{"format":"kluis-vault","version":0,"vaultId":"${id}"`,
    `{"format":"kluis-vault","version":"1","vaultId":"${id}"`,
    `{"format":"kluis-vault","version":1`,
  ];
  for (const body of others) assert.equal(errorOf(sign(body)).code, "ObjectCorrupt", body);
});
