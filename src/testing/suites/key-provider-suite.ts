/** What every key provider must do; docs/design/keys.md. */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { KeyProvider } from "#ports/key-provider.ts";
import { createSeededRandom } from "../seeded-random.ts";

/** A provider with a key, and its owner, who can do to the key what owners do. */
export interface ProvidedKeyWorld extends AsyncDisposable {
  readonly provider: KeyProvider;
  /** The key, without a version. */
  readonly key: string;
  /** A key of the same form that is not there. */
  readonly absentKey: string;
  /** Names that are out of form. */
  readonly badNames: readonly string[];
  addVersion(): Promise<void>;
  /** A version as `newestVersion` names it. */
  setEnabled(version: string, isEnabled: boolean): Promise<void>;
  delete(): Promise<void>;
  recover(): Promise<void>;
}

/** Declares the tests. `open` makes a world for each of them. */
export function testKeyProvider(name: string, open: () => Promise<ProvidedKeyWorld>): void {
  const random = createSeededRandom(`key provider ${name}`);
  const isCode =
    (code: ErrorCode) =>
    (error: unknown): boolean =>
      isKluisError(error, code);

  test(`${name}: unwraps what it wrapped, and names the version`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const version = await provider.newestVersion(key);
    assert.notEqual(version, key);
    assert.equal(provider.keyOf(version), key);
    assert.equal(provider.keyOf(key), key);
    for (const named of [key, version]) {
      const plain = random.bytes(32);
      const wrapped = await provider.wrap(named, plain);
      assert.equal(wrapped.key, version);
      assert.ok(wrapped.wrapped.byteLength >= 40 && wrapped.wrapped.byteLength <= 1024);
      assert.match(wrapped.key, /^[\x21-\x7e]{1,1024}$/);
      assert.deepEqual(await provider.unwrap(wrapped), plain);
    }
  });

  test(`${name}: a new version wraps, and the old one still unwraps`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const plain = random.bytes(32);
    const old = await provider.wrap(key, plain);
    await world.addVersion();
    const fresh = await provider.wrap(key, plain);
    assert.notEqual(fresh.key, old.key);
    assert.equal(fresh.key, await provider.newestVersion(key));
    assert.deepEqual(await provider.unwrap(old), plain);
    assert.deepEqual(await provider.unwrap(fresh), plain);
    assert.equal((await provider.wrap(old.key, plain)).key, old.key);
    await assert.rejects(provider.unwrap({ ...old, key: fresh.key }), isCode("KeyDenied"));
  });

  test(`${name}: a changed byte, another algorithm or length does not unwrap`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const wrapped = await provider.wrap(key, random.bytes(32));
    const changed = wrapped.wrapped.slice();
    changed[random.integer(0, changed.byteLength - 1)]! ^= 1;
    const other = wrapped.algorithm === "A256KW" ? "RSA-OAEP-256" : "A256KW";
    for (const bad of [
      { ...wrapped, wrapped: changed },
      { ...wrapped, wrapped: wrapped.wrapped.subarray(0, -1) },
      { ...wrapped, algorithm: other } as const,
    ]) {
      await assert.rejects(provider.unwrap(bad), isCode("KeyDenied"));
    }
  });

  test(`${name}: a disabled version neither wraps nor unwraps until it is enabled`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const plain = random.bytes(32);
    const wrapped = await provider.wrap(key, plain);
    await world.setEnabled(wrapped.key, false);
    await assert.rejects(provider.unwrap(wrapped), isCode("KeyDenied"));
    await assert.rejects(provider.wrap(wrapped.key, plain), isCode("KeyDenied"));
    await world.setEnabled(wrapped.key, true);
    assert.deepEqual(await provider.unwrap(wrapped), plain);
  });

  test(`${name}: a deleted key is refused, and works again when it is recovered`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const plain = random.bytes(32);
    const wrapped = await provider.wrap(key, plain);
    await world.delete();
    await assert.rejects(provider.unwrap(wrapped), isCode("KeyDenied"));
    await assert.rejects(provider.wrap(key, plain), isCode("KeyDenied"));
    await world.recover();
    assert.deepEqual(await provider.unwrap(wrapped), plain);
  });

  test(`${name}: keys that are not there and names out of form are refused`, async () => {
    await using world = await open();
    const { provider, absentKey, badNames } = world;
    await assert.rejects(provider.wrap(absentKey, random.bytes(32)), isCode("KeyDenied"));
    await assert.rejects(provider.newestVersion(absentKey), isCode("KeyDenied"));
    for (const bad of badNames) {
      assert.throws(() => provider.keyOf(bad), isCode("ArgumentInvalid"), bad);
      await assert.rejects(provider.wrap(bad, random.bytes(32)), isCode("ArgumentInvalid"), bad);
    }
  });

  test(`${name}: a signal that aborted ends a call`, async () => {
    await using world = await open();
    const { provider, key } = world;
    const wrapped = await provider.wrap(key, random.bytes(32));
    const reason = new Error("stop");
    const signal = AbortSignal.abort(reason);
    await assert.rejects(provider.wrap(key, random.bytes(32), signal), reason);
    await assert.rejects(provider.unwrap(wrapped, signal), reason);
  });
}
