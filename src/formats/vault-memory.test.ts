// Goal: what a host remembers of a vault is read back as it was written, and nothing else is taken.
// Method: encode and parse; then change the text.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { encodeVaultMemory, parseVaultMemory, type VaultMemory } from "./vault-memory.ts";

const memory: VaultMemory = {
  vaultId: new Uint8Array(16).fill(1),
  parts: [
    { number: 7, sha256: new Uint8Array(32).fill(2) },
    { number: 6, sha256: new Uint8Array(32).fill(3) },
  ],
  record: { number: 4, sha256: new Uint8Array(32).fill(4) },
};

test("vault memory: is read as it was written", () => {
  assert.deepEqual(parseVaultMemory(encodeVaultMemory(memory)), memory);
  const { record: _, ...without } = memory;
  assert.deepEqual(parseVaultMemory(encodeVaultMemory(without)), without);
});

test("vault memory: refuses what is out of form, and a newer version", () => {
  const text = Buffer.from(encodeVaultMemory(memory)).toString();
  const codeOf = (changed: string): string => {
    try {
      parseVaultMemory(Buffer.from(changed));
      return "taken";
    } catch (error) {
      return isKluisError(error) ? error.code : String(error);
    }
  };
  assert.equal(codeOf(text), "taken");
  assert.equal(codeOf(text.replace('"version":1', '"version":2')), "StoreFormatNewer");
  for (const changed of [text.trim(), `${text} `, text.replace('"number":4', '"number":0'), "{}"]) {
    assert.equal(codeOf(changed), "ObjectCorrupt", changed);
  }
});
