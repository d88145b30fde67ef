/**
 * From a printed recovery key to the keys of a vault (docs/design/vault-format.md §3). Part of the
 * independent reader: written from that page alone, it shares no code with src/.
 */
import { argon2Sync, createDecipheriv, createHash, hkdfSync } from "node:crypto";

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

type Slot = Readonly<{
  format: string;
  version: number;
  vaultId: string;
  type: string;
  kdf: Readonly<{
    name: string;
    salt: string;
    memoryKib: number;
    passes: number;
    parallelism: number;
  }>;
  nonce: string;
  sealed: string;
}>;

/** The key ring of a slot (one line of JSON), or undefined if it is another vault's or another type. */
export function openRecoverySlot(
  line: string,
  vaultId: string,
  secret: Buffer,
): KeyRing | undefined {
  demand(line.length <= 64 * 1024 && line.endsWith("}\n"), "slot: one line of at most 64 KiB");
  const slot = JSON.parse(line) as Slot;
  demand(slot.format === "kluis-key-slot" && slot.version === 1, "slot: format and version");
  if (slot.vaultId !== vaultId || slot.type !== "recovery") return undefined;
  const { kdf } = slot;
  demand(kdf.name === "argon2id" && kdf.memoryKib <= 1024 * 1024, "slot: KDF and its memory");
  demand(kdf.passes <= 16 && kdf.parallelism <= 16, "slot: passes and parallelism");
  const kek = argon2Sync("argon2id", {
    message: secret,
    nonce: Buffer.from(kdf.salt, "hex"),
    memory: kdf.memoryKib,
    passes: kdf.passes,
    parallelism: kdf.parallelism,
    tagLength: 32,
  });
  const authenticated = `${line.slice(0, line.indexOf(',"nonce":'))}}\n`;
  const sealed = Buffer.from(slot.sealed, "hex");
  const cipher = createDecipheriv("aes-256-gcm", kek, Buffer.from(slot.nonce, "hex"));
  cipher.setAAD(Buffer.from(authenticated)).setAuthTag(sealed.subarray(-16));
  return parseRing(Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()]));
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
export function deriveKey(key: Buffer, salt: Buffer, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, salt, info, 32));
}
