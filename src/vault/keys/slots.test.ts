// Goal: every slot opens with its secret and no other; damage is found and named, and one damaged
// slot does not lock out the others.
import assert from "node:assert/strict";
import { createCipheriv, createHash } from "node:crypto";
import { test } from "node:test";

import { argon2id } from "@noble/hashes/argon2.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";

import { toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { encodeKeySlot, parseKeySlot, type KeySlot, type SlotFrame } from "#formats/key-slot.ts";
import { slotName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { flipObjectBit, replaceObject } from "#testing/damage.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import {
  createKeyFileSecret,
  createRecoveryKey,
  passphraseBytesMax,
  toKeyFileSecret,
  toPassphraseSecret,
  toRecoverySecret,
  type KeySecret,
} from "#vault/key-secret.ts";
import { createKeyRing, type KeyRing } from "./key-ring.ts";
import { openSlot, sealSlot } from "./seal-slot.ts";
import { openKeyRing } from "./open-ring.ts";
import { listKeySlots, putSlot, slotObjectsMax } from "./slots.ts";

const random = createSeededRandom("slots");
const ring = createKeyRing(random);

async function openError(
  store: ObjectStore,
  secret: KeySecret,
  vaultId = ring.vaultId,
): Promise<KluisError> {
  try {
    await openKeyRing(store, vaultId, secret);
  } catch (error) {
    assert.ok(isKluisError(error), String(error));
    return error;
  }
  return assert.fail("it opens");
}

function putBytes(store: ObjectStore, bytes: Uint8Array): Promise<unknown> {
  return store.put(slotName(createHash("sha256").update(bytes).digest()), [bytes]);
}

test("slots: each of the three types opens the ring, with its own secret alone", async () => {
  const store = createMemoryStore();
  const recovery = createRecoveryKey(random);
  const keyFile = createKeyFileSecret(random);
  const secrets = [toPassphraseSecret("café au lait"), recovery.secret, keyFile.secret];
  for (const secret of secrets) await putSlot(store, ring, secret, { random });
  const typed = [
    toPassphraseSecret("cafe\u0301 au lait"),
    toRecoverySecret(recovery.printed.toLowerCase()),
    toKeyFileSecret(keyFile.text),
  ];
  for (const secret of typed) {
    assert.deepEqual((await openKeyRing(store, ring.vaultId, secret)).ring, ring);
  }
  const wrong = [
    toPassphraseSecret("cafe au lait"),
    createRecoveryKey(random).secret,
    createKeyFileSecret(random).secret,
  ];
  for (const secret of wrong) assert.equal((await openError(store, secret)).code, "KeyWrong");
  const listing = await listKeySlots(store, ring.vaultId);
  assert.deepEqual(listing.slots.map(({ slot }) => slot.type).sort(), [
    "key-file",
    "passphrase",
    "recovery",
  ]);
});

test("slots: several of one type all open, and a ring of several epochs comes back", async () => {
  const store = createMemoryStore();
  const rotated: KeyRing = {
    vaultId: ring.vaultId,
    epochs: [...ring.epochs, { epoch: 7, masterKey: random.bytes(32) }],
  };
  const secrets = [1, 2, 3].map(() => createKeyFileSecret(random).secret);
  for (const secret of secrets) await putSlot(store, rotated, secret, { random });
  for (const secret of secrets) {
    assert.deepEqual((await openKeyRing(store, ring.vaultId, secret)).ring, rotated);
  }
});

test("slots: a slot does not open for another vault, type or KDF parameters", async () => {
  const { secret } = createKeyFileSecret(random);
  const slot = parseKeySlot((await sealSlot(ring, secret, { random })).bytes);
  assert.deepEqual((await openSlot(slot, secret))?.ring, ring);
  const others: KeySlot[] = [
    { ...slot, vaultId: random.bytes(16) },
    { ...slot, nonce: random.bytes(12) },
    { ...slot, publicKey: random.bytes(32) },
    { ...slot, kdf: { name: "hkdf-sha256", salt: random.bytes(32) } },
  ];
  for (const other of others) assert.equal(await openSlot(other, secret), undefined);
  assert.equal(await openSlot(slot, { ...secret, type: "recovery" }), undefined);
  const passphrase = toPassphraseSecret("x");
  const slow = parseKeySlot((await sealSlot(ring, passphrase, { random })).bytes);
  assert.equal(slow.kdf.name, "argon2id");
  if (slow.kdf.name !== "argon2id") return;
  const costlier = { ...slow, kdf: { ...slow.kdf, passes: slow.kdf.passes + 1 } };
  assert.equal(await openSlot(costlier, passphrase), undefined);
  assert.equal(
    await openSlot({ ...slow, type: "recovery" }, { ...passphrase, type: "recovery" }),
    undefined,
  );
});

test("slots: every flipped bit of a stored slot is ObjectCorrupt, and the others open", async () => {
  const { secret } = createKeyFileSecret(random);
  const spare = createRecoveryKey(random).secret;
  const bytes = (await sealSlot(ring, secret, { random })).bytes;
  const store = createMemoryStore();
  await putBytes(store, bytes);
  const name = (await listKeySlots(store, ring.vaultId)).slots[0]?.name ?? "";
  for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
    await flipObjectBit(store, name, bit);
    const error = await openError(store, secret);
    assert.equal(error.code, "ObjectCorrupt", `bit ${bit}`);
    assert.ok(error.message.includes(name), "the damaged slot is named");
    await replaceObject(store, name, bytes);
  }
  await flipObjectBit(store, name, 99);
  await putSlot(store, ring, spare, { random });
  assert.deepEqual((await openKeyRing(store, ring.vaultId, spare)).ring, ring);
  const second = createKeyFileSecret(random).secret;
  await putSlot(store, ring, second, { random });
  assert.deepEqual((await openKeyRing(store, ring.vaultId, second)).ring, ring);
  const error = await openError(store, secret);
  assert.equal(error.code, "KeyWrong");
  assert.match(error.message, /damaged: 1/);
});

test("slots: slots of other vaults, newer slots and foreign objects are told apart", async () => {
  const store = createMemoryStore();
  const { secret } = createKeyFileSecret(random);
  assert.equal((await openError(store, secret)).code, "ObjectNotFound");
  await putSlot(store, createKeyRing(random), secret, { random });
  assert.equal((await openError(store, secret)).code, "ObjectNotFound");
  const text = new TextDecoder().decode((await sealSlot(ring, secret, { random })).bytes);
  await putBytes(store, new TextEncoder().encode(text.replace('"version":1', '"version":2')));
  assert.equal((await openError(store, secret)).code, "StoreFormatNewer");
  await store.put("keys/readme", [new Uint8Array(3)]);
  assert.deepEqual((await listKeySlots(store, ring.vaultId)).damaged, ["keys/readme"]);
  await putSlot(store, ring, createRecoveryKey(random).secret, { random });
  assert.equal((await openError(store, toPassphraseSecret("x"))).code, "StoreFormatNewer");
});

/** The KEK and sealing as the format document has them, by other code than the product's. */
function sealByHand(frame: SlotFrame, kek: Uint8Array, plain: Uint8Array): KeySlot {
  const nonce = random.bytes(12);
  const cipher = createCipheriv("aes-256-gcm", kek, nonce);
  const { vaultId, type, kdf, publicKey } = frame;
  assert.ok("salt" in kdf);
  const salt = toHex(kdf.salt);
  const costs =
    kdf.name === "argon2id"
      ? `,"memoryKib":${kdf.memoryKib},"passes":${kdf.passes},"parallelism":${kdf.parallelism}`
      : "";
  cipher.setAAD(
    Buffer.from(
      `{"format":"kluis-key-slot","version":1,"vaultId":"${toHex(vaultId)}","type":"${type}",` +
        `"kdf":{"name":"${kdf.name}","salt":"${salt}"${costs}},` +
        `"publicKey":"${toHex(publicKey)}"}\n`,
    ),
  );
  const sealed = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  return { ...frame, nonce, sealed };
}

test("slots: are what the format document says, checked with other code", async () => {
  const { vaultId } = ring;
  const salt = random.bytes(32);
  const plain = Buffer.concat([Buffer.from([1, 1]), ring.epochs[0]?.masterKey ?? new Uint8Array()]);
  const { secret } = createKeyFileSecret(random);
  const hkdfKek = hkdf(sha256, secret.material, salt, Buffer.from("kluis/v1/slot/key-file"), 32);
  const publicKey = random.bytes(32);
  const keyFrame: SlotFrame = {
    vaultId,
    type: "key-file",
    kdf: { name: "hkdf-sha256", salt },
    publicKey,
  };
  assert.deepEqual((await openSlot(sealByHand(keyFrame, hkdfKek, plain), secret))?.ring, ring);
  const cost = { memoryKib: 65_536, passes: 3, parallelism: 2 };
  const frame: SlotFrame = {
    vaultId,
    type: "recovery",
    kdf: { name: "argon2id", salt, ...cost },
    publicKey,
  };
  const recovery = createRecoveryKey(random).secret;
  const argonKek = argon2id(recovery.material, salt, { t: 3, m: 65_536, p: 2, dkLen: 32 });
  assert.deepEqual((await openSlot(sealByHand(frame, argonKek, plain), recovery))?.ring, ring);

  // Whoever holds the secret may have sealed nonsense: an error, not a ring.
  const nonsense = encodeKeySlot(sealByHand(keyFrame, hkdfKek, plain.subarray(1)));
  const store = createMemoryStore();
  await putBytes(store, nonsense);
  assert.equal((await openError(store, secret)).code, "ObjectCorrupt");
});

test("slots: their number is bounded", async () => {
  const store = createMemoryStore();
  for (let at = 0; at < slotObjectsMax; at++) {
    await store.put(`keys/${at}`, [new Uint8Array(1)]);
  }
  assert.equal((await openError(store, toPassphraseSecret("x"))).code, "ObjectCorrupt");
});

test("slots: opening stops when its signal aborts", async () => {
  const store = createMemoryStore();
  const { secret } = createKeyFileSecret(random);
  await putSlot(store, ring, secret, { random });
  const reason = new Error("stop");
  await assert.rejects(openKeyRing(store, ring.vaultId, secret, AbortSignal.abort(reason)), reason);
});

test("slots: a passphrase that cannot be one is refused", () => {
  for (const text of ["", "\ud800", "x".repeat(passphraseBytesMax + 1)]) {
    assert.throws(
      () => toPassphraseSecret(text),
      (error) => isKluisError(error, "ArgumentInvalid"),
    );
  }
});
