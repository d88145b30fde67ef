/**
 * From a printed recovery key to the keys of a vault (docs/design/vault-format.md §3). Part of the
 * independent reader: written from that page alone, it shares no code with src/.
 */
import {
  argon2Sync,
  createDecipheriv,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hkdfSync,
} from "node:crypto";

import { ByteReader, demand } from "./byte-reader.ts";

const LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** Master keys by epoch. */
export type KeyRing = ReadonlyMap<number, Buffer>;

/** The 20 secret bytes of a recovery key as it is printed; its check group must fit. */
export function parseRecoveryKey(printed: string): Buffer {
  const groups = printed.trim().split("-");
  demand(groups.length === 9 && groups.every((g) => g.length === 4), "recovery key: 9 groups of 4");
  let bits = 0n;
  for (const letter of groups.join("")) {
    const value = LETTERS.indexOf(letter);
    demand(value >= 0, "recovery key: a letter that is not one of the 32");
    bits = (bits << 5n) | BigInt(value);
  }
  const secret = Buffer.from((bits >> 20n).toString(16).padStart(40, "0"), "hex");
  const digest = createHash("sha256").update("kluis/v1/recovery-key-check").update(secret).digest();
  const check = digest.readUIntBE(0, 3) >> 4;
  demand(Number(bits & 0xfffffn) === check, "recovery key: check group does not fit");
  return secret;
}

type Kdf = Readonly<Record<"name" | "salt", string>> &
  Readonly<Record<"memoryKib" | "passes" | "parallelism", number>>;

type Slot = Readonly<Record<"format" | "vaultId" | "type" | "nonce" | "sealed", string>> &
  Readonly<{ version: number; kdf: Kdf }>;

/** A slot that was opened. */
export type OpenedSlot = Readonly<{
  /** SHA-256 of the slot, in hexadecimal. */
  name: string;
  /** The ring as it was when the slot was made. */
  ring: KeyRing;
  privateKey: Buffer;
}>;

/** A slot (one line of JSON), opened; undefined if it is another vault's or of another type. */
export function openRecoverySlot(
  line: string,
  vaultId: string,
  secret: Buffer,
): OpenedSlot | undefined {
  demand(line.length <= 64 * 1024 && line.endsWith("}\n"), "slot: one line of at most 64 KiB");
  const slot = JSON.parse(line) as Slot;
  demand(slot.format === "kluis-key-slot" && slot.version === 1, "slot: format and version");
  if (slot.vaultId !== vaultId || slot.type !== "recovery") return undefined;
  const { kdf } = slot;
  demand(kdf.name === "argon2id" && kdf.memoryKib <= 1024 * 1024, "slot: KDF and its memory");
  demand(kdf.passes <= 16 && kdf.parallelism <= 16, "slot: passes and parallelism");
  const { memoryKib: memory, passes, parallelism } = kdf;
  const cost = { memory, passes, parallelism, tagLength: 32 };
  const kek = argon2Sync("argon2id", {
    message: secret,
    nonce: Buffer.from(kdf.salt, "hex"),
    ...cost,
  });
  const authenticated = Buffer.from(`${line.slice(0, line.indexOf(',"nonce":'))}}\n`);
  const nonce = Buffer.from(slot.nonce, "hex");
  const ring = parseRing(
    unseal({ key: kek, nonce, authenticated }, Buffer.from(slot.sealed, "hex")),
  );
  const salt = Buffer.from(vaultId, "hex");
  const privateKey = deriveKey(kek, salt, "kluis/v1/slot/private-key");
  return { name: createHash("sha256").update(line).digest("hex"), ring, privateKey };
}

function unseal(
  seal: Readonly<{ key: Buffer; nonce: Buffer; authenticated: Buffer }>,
  sealed: Buffer,
): Buffer {
  const cipher = createDecipheriv("aes-256-gcm", seal.key, seal.nonce);
  cipher.setAAD(seal.authenticated).setAuthTag(sealed.subarray(-16));
  return Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()]);
}

type KeyRecord = Readonly<Record<"format" | "vaultId" | "senderKey" | "mac", string>> &
  Readonly<Record<"version" | "number" | "epoch", number>> &
  Readonly<{ slots: readonly Readonly<Record<"slot" | "publicKey" | "box", string>>[] }>;

/** A key record (one line of JSON, §3.2) whose checksum is right; undefined for every other text. */
export function parseKeyRecord(line: string): KeyRecord | undefined {
  const body = line.slice(0, Math.max(0, line.lastIndexOf(',"sha256":')));
  const sha256 = createHash("sha256").update(body).digest("hex");
  if (line !== `${body},"sha256":"${sha256}"}\n`) return undefined;
  return JSON.parse(line) as KeyRecord;
}

/** The ring of now: that in the box which `record` (its text: `line`) holds for the slot. */
export function openKeyRecord(record: KeyRecord, line: string, slot: OpenedSlot): KeyRing {
  demand(record.format === "kluis-key-record" && record.version === 1, "key record: format");
  const entry = record.slots.find((candidate) => candidate.slot === slot.name);
  demand(entry !== undefined, "key record: the slot is not valid any more");
  const first = slot.ring.get(1);
  demand(first !== undefined, "key ring: epoch 1");
  const vaultId = Buffer.from(record.vaultId, "hex");
  const sender = Buffer.from(record.senderKey, "hex");
  const number = Buffer.alloc(4);
  number.writeUInt32BE(record.number);
  const info = [Buffer.from("kluis/v1/key-record/box"), sender];
  info.push(Buffer.from(entry.publicKey, "hex"), number);
  const ringSecret = deriveKey(first, vaultId, "kluis/v1/key-record/secret");
  const shared = Buffer.concat([agree(slot.privateKey, sender), ringSecret]);
  const key = deriveKey(shared, vaultId, Buffer.concat(info));
  const seal = { key, nonce: Buffer.alloc(12), authenticated: Buffer.alloc(0) };
  const ring = parseRing(unseal(seal, Buffer.from(entry.box, "hex")));
  for (const [epoch, masterKey] of slot.ring) {
    demand(ring.get(epoch)?.equals(masterKey) === true, "key record: the ring is another one");
  }
  const newest = ring.get(record.epoch);
  demand(newest !== undefined && Math.max(...ring.keys()) === record.epoch, "key record: epoch");
  const macKey = deriveKey(newest, vaultId, "kluis/v1/key-record/mac");
  const authenticated = `${line.slice(0, line.lastIndexOf(',"mac":'))}}\n`;
  const mac = createHmac("sha256", macKey).update(authenticated).digest("hex");
  demand(mac === record.mac, "key record: MAC");
  return ring;
}

/** X25519 of raw keys of 32 bytes. */
function agree(privateKey: Buffer, publicKey: Buffer): Buffer {
  const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b656e04220420", "hex"), privateKey]);
  const spki = Buffer.concat([Buffer.from("302a300506032b656e032100", "hex"), publicKey]);
  return diffieHellman({
    privateKey: createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" }),
    publicKey: createPublicKey({ key: spki, format: "der", type: "spki" }),
  });
}

function parseRing(bytes: Buffer): KeyRing {
  const reader = new ByteReader(bytes);
  const ring = new Map<number, Buffer>();
  const count = reader.varint();
  demand(count >= 1 && count <= 256, "key ring: 1 to 256 epochs");
  let last = 0;
  while (ring.size < count) {
    const epoch = reader.varint();
    demand(last === 0 ? epoch === 1 : epoch > last, "key ring: epochs ascend from 1");
    ring.set(epoch, reader.bytes(32));
    last = epoch;
  }
  demand(reader.atEnd, "key ring: bytes after the last epoch");
  return ring;
}

/** HKDF-SHA-256 to 32 bytes. */
export function deriveKey(key: Buffer, salt: Buffer, info: string | Buffer): Buffer {
  return Buffer.from(hkdfSync("sha256", key, salt, info, 32));
}
