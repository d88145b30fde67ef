/**
 * Opens containers and parses what index segments and maps hold (docs/design/vault-format.md §4 to
 * §6). Part of the independent reader: written from that page alone, it shares no code with src/.
 */
import { createDecipheriv } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";

import { ByteReader, demand } from "./byte-reader.ts";
import { deriveKey, type KeyRing } from "./keys.ts";

const MiB = 1024 * 1024;

/** What a vault is read with. */
export type VaultKeys = Readonly<{ vaultId: Buffer; ring: KeyRing }>;

/** Type bytes of containers (§4). Their words stand in the info of keys (§3). */
export const containerTypes = { pack: 1, mapPack: 2, indexSegment: 3, manifest: 4 } as const;
const words = ["", "pack", "mapPack", "indexSegment", "manifest"] as const;

/** A frame as it stands in an object: its header and what follows. */
type Frame = Readonly<{ header: Buffer; sealed: Buffer; tag: Buffer; end: number }>;

function frameAt(object: Buffer, offset: number): Frame {
  demand(offset + 32 <= object.length - 16, "frame begins after the end");
  const header = object.subarray(offset, offset + 16);
  const length = header.readUInt32LE(0);
  const end = offset + 16 + length + 16;
  demand(length >= 1 && length <= MiB + 64 * 1024, "frame: sealed length");
  demand(end <= object.length - 16, "frame ends after the end");
  demand(header.readUInt16LE(14) === 0, "frame: reserved bytes");
  const sealed = object.subarray(offset + 16, end - 16);
  return { header, sealed, tag: object.subarray(end - 16, end), end };
}

/** A container whose header was checked. */
export class Container {
  readonly #object: Buffer;
  readonly #key: Buffer;

  constructor(object: Buffer, type: number, keys: VaultKeys) {
    demand(object.length >= 80 && object.subarray(-8).toString() === "KLUISEND", "container: end");
    demand(object.subarray(0, 8).toString("latin1") === "KLUISV1\n", "container: magic");
    demand(object[8] === type && object[9] === 1, "container: type and version");
    demand(object.readUInt16LE(10) === 0, "container: reserved bytes");
    demand(object.subarray(48, 64).equals(keys.vaultId), "container: vault id");
    const master = keys.ring.get(object.readUInt32LE(12));
    demand(master !== undefined, "container: epoch is not in the key ring");
    const parent = deriveKey(master, keys.vaultId, `kluis/v1/container/${words[type]}`);
    this.#object = object;
    this.#key = deriveKey(parent, object.subarray(16, 48), "kluis/v1/container-key");
  }

  /** Plaintext of the frame at an offset of the object, whatever its kind. */
  openAt(offset: number): Buffer {
    return this.#open(frameAt(this.#object, offset));
  }

  #open({ header, sealed, tag }: Frame): Buffer {
    const nonce = Buffer.alloc(12);
    nonce.writeUInt32BE(header.readUInt32LE(8), 8);
    const cipher = createDecipheriv("aes-256-gcm", this.#key, nonce);
    cipher.setAAD(Buffer.concat([this.#object.subarray(0, 64), header])).setAuthTag(tag);
    const packed = Buffer.concat([cipher.update(sealed), cipher.final()]);
    const length = header.readUInt32LE(4);
    const codec = header[13];
    demand(length >= 1 && length <= MiB && (codec === 0 || codec === 1), "frame: length, codec");
    const plain = codec === 0 ? packed : zstdDecompressSync(packed, { maxOutputLength: length });
    demand(plain.length === length, "frame: plain length");
    return plain;
  }

  /** Plaintext of all content frames, one after the other. */
  content(): Buffer {
    const parts: Buffer[] = [];
    let offset = 64;
    while (offset < this.#object.length - 16) {
      const frame = frameAt(this.#object, offset);
      demand(
        frame.header[12] === 1 && frame.header.readUInt32LE(8) === parts.length,
        "frame order",
      );
      parts.push(this.#open(frame));
      offset = frame.end;
    }
    return Buffer.concat(parts);
  }
}

/** Where a block or node lies: type and name of its pack, the frame's offset there, its place in it. */
export type Location = Readonly<Record<"type" | "frameOffset" | "offset" | "length", number>> &
  Readonly<{ pack: string }>;

/** Adds the entries of an index segment (§5) to `index`, by id in hexadecimal. */
export function readSegment(bytes: Buffer, index: Map<string, Location>): void {
  const reader = new ByteReader(bytes);
  for (let packs = reader.varint(); packs > 0; packs--) {
    const type = reader.u8();
    demand(type === containerTypes.pack || type === containerTypes.mapPack, "segment: pack type");
    const pack = reader.bytes(32).toString("hex");
    reader.bytes(32); // Salt: for who reads frames without the header of their pack.
    reader.varint(); // Epoch: the same.
    const frameOffsets: number[] = [];
    let end = 64;
    for (let frames = reader.varint(); frames > 0; frames--) {
      frameOffsets.push(end);
      end += reader.varint();
      reader.varint();
      reader.u8();
    }
    for (let entries = reader.varint(); entries > 0; entries--) {
      const id = reader.bytes(24).toString("hex");
      const frameOffset = frameOffsets[reader.varint()];
      demand(frameOffset !== undefined, "segment: entry names no frame");
      const offset = reader.varint();
      index.set(id, { type, pack, frameOffset, offset, length: reader.varint() });
    }
  }
  demand(reader.atEnd, "segment: bytes after the last pack");
}

/** Pages of a window: of block `block` from page `offset` on, or zeros without a block. */
export type Piece = Readonly<{ pages: number; block?: string; offset: number }>;

/** One window of a leaf; one without pieces is all zeros. */
export type Window = Readonly<{ checksum: Buffer; pieces: readonly Piece[] }>;

/** A vertex of a map (§6). */
export type Node =
  | Readonly<{ level: 0; windows: readonly Window[] }>
  | Readonly<{ level: number; children: readonly (string | undefined)[] }>;

/** The node in `bytes`. */
export function parseNode(bytes: Buffer): Node {
  const reader = new ByteReader(bytes);
  const kind = reader.u8();
  const level = reader.u8();
  let node: Node;
  if (kind === 1) {
    demand(level === 0, "leaf: level");
    node = { level: 0, windows: parseWindows(reader) };
  } else {
    demand(kind === 2 && level > 0, "node: kind and level");
    const bitmap = reader.u16();
    const children = Array.from({ length: 16 }, (_, bit) =>
      (bitmap & (1 << bit)) === 0 ? undefined : reader.bytes(24).toString("hex"),
    );
    node = { level, children };
  }
  demand(reader.atEnd, "node: bytes after its end");
  return node;
}

function parseWindows(reader: ByteReader): Window[] {
  const blocks: string[] = [];
  for (let count = reader.varint(); count > 0; count--) {
    blocks.push(reader.bytes(24).toString("hex"));
  }
  return Array.from({ length: 8 }, () => {
    const count = reader.varint();
    const checksum = count === 0 ? Buffer.alloc(16) : reader.bytes(16);
    const pieces: Piece[] = [];
    for (let piece = 0; piece < count; piece++) {
      const pages = reader.varint();
      const reference = reader.varint();
      const block = blocks[reference - 1];
      demand(reference === 0 || block !== undefined, "leaf: reference names no block");
      pieces.push(
        block === undefined ? { pages, offset: 0 } : { pages, block, offset: reader.varint() },
      );
    }
    const pages = pieces.reduce((sum, piece) => sum + piece.pages, 0);
    demand(count === 0 || pages === 64, "leaf: pages of a window");
    return { checksum, pieces };
  });
}
