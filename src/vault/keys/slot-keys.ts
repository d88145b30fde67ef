/** X25519 for key records: the key pair of a slot, and boxes for it; docs/design/vault-format.md §3.2. */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hkdfSync,
  type KeyObject,
} from "node:crypto";

import { assert } from "#base/assert.ts";
import { concatBytes } from "#base/bytes.ts";
import { slotTagBytes } from "#formats/key-slot.ts";

const keyBytes = 32;
/** PKCS #8 and SubjectPublicKeyInfo of X25519 up to the 32 bytes of the key; RFC 8410. */
const privatePrefix = Buffer.from("302e020100300506032b656e04220420", "hex");
const publicPrefix = Buffer.from("302a300506032b656e032100", "hex");
/** Each box has a key of its own, so its nonce need not differ. */
const boxNonce = new Uint8Array(12);
const cipherName = "aes-256-gcm";

/** The private key of 32 random or derived bytes. */
export function toPrivateKey(seed: Uint8Array): KeyObject {
  assert(seed.byteLength === keyBytes, "an X25519 key has 32 bytes");
  const der = Buffer.concat([privatePrefix, seed]);
  const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
  der.fill(0);
  return key;
}

/** The 32 bytes of its public key. */
export function publicKeyOf(privateKey: KeyObject): Uint8Array {
  const der = createPublicKey(privateKey).export({ format: "der", type: "spki" });
  return new Uint8Array(der.subarray(publicPrefix.byteLength));
}

/** What binds a box to its place. */
export interface BoxPlace {
  /** 16 bytes. */
  readonly vaultId: Uint8Array;
  /** Number of the key record. */
  readonly number: number;
  /** 32 bytes each. */
  readonly senderKey: Uint8Array;
  readonly publicKey: Uint8Array;
  /** Known to holders of the ring alone, 32 bytes: nobody else can make a box. */
  readonly ringSecret: Uint8Array;
}

/** Seals `plain` for the public key of `place`; `sender` is the private key of its sender key. */
export function sealBox(plain: Uint8Array, sender: KeyObject, place: BoxPlace): Uint8Array {
  const key = boxKey(sender, place.publicKey, place);
  const cipher = createCipheriv(cipherName, key, boxNonce);
  const box = concatBytes([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  key.fill(0);
  return box;
}

/** Opens a box with the slot's private key; `undefined` where it was not made for it in that place. */
export function openBox(
  box: Uint8Array,
  privateKey: KeyObject,
  place: BoxPlace,
): Uint8Array | undefined {
  const tagAt = box.byteLength - slotTagBytes;
  try {
    const key = boxKey(privateKey, place.senderKey, place);
    const decipher = createDecipheriv(cipherName, key, boxNonce, { authTagLength: slotTagBytes });
    key.fill(0);
    decipher.setAuthTag(box.subarray(tagAt));
    const plain = decipher.update(box.subarray(0, tagAt));
    return concatBytes([plain, decipher.final()]);
  } catch {
    // A tag that does not match, or a sender key that is no point of the curve.
    return undefined;
  }
}

function boxKey(privateKey: KeyObject, otherKey: Uint8Array, place: BoxPlace): Uint8Array {
  const der = Buffer.concat([publicPrefix, otherKey]);
  const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
  const shared = diffieHellman({ privateKey, publicKey });
  const number = Buffer.alloc(4);
  number.writeUInt32BE(place.number);
  const info = concatBytes([
    Buffer.from("kluis/v1/key-record/box", "latin1"),
    place.senderKey,
    place.publicKey,
    number,
  ]);
  const input = concatBytes([shared, place.ringSecret]);
  const key = new Uint8Array(hkdfSync("sha256", input, place.vaultId, info, keyBytes));
  shared.fill(0);
  input.fill(0);
  return key;
}
