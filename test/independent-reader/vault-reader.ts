/**
 * Opens a vault in a folder with its recovery key, lists its recovery points and restores disks, as
 * docs/design/vault-format.md says and nothing else: it shares no code with src/, so that a vault can
 * be read should Kluis be gone, and so that the document is known to be complete.
 */
import { createCipheriv, createHash } from "node:crypto";
import { closeSync, existsSync, ftruncateSync, openSync } from "node:fs";
import { readdirSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";

import { blake3 } from "@noble/hashes/blake3.js";

import { demand } from "./byte-reader.ts";
import { Container, containerTypes, type Location, type VaultKeys } from "./container.ts";
import { type Piece, parseNode, readSegment, type Window } from "./container.ts";
import { deriveKey, type KeyRing, openKeyRecord, type OpenedSlot } from "./keys.ts";
import { openRecoverySlot, parseKeyRecord, parseRecoveryKey } from "./keys.ts";

const PAGE = 4096;
const WINDOW = 64 * PAGE;
const LEAF = 8 * WINDOW;
/** No manifest is so short (§7.1). */
const tombstoneBytes = 113;

/** A disk as a manifest names it (§7). */
export type Disk = Readonly<{
  name: string;
  sizeBytes: number;
  /** Id of the map's root; null where the whole disk is zeros. */
  root: string | null;
  level: number;
}>;

/** A recovery point: the JSON of its manifest. */
export type Point = Readonly<{ pointId: string; itemId: string; disks: readonly Disk[] }>;

/** A vault that was opened. */
export class VaultReader {
  readonly #folder: string;
  readonly #keys: VaultKeys;
  readonly #blockKey: Buffer;
  readonly #nodeKey: Buffer;
  readonly #checksumKey: Buffer;
  readonly #index = new Map<string, Location>();
  /** The pack and the frame that were read last: neighbours are read one after the other. */
  #pack: Readonly<{ name: string; container: Container }> | undefined;
  #frame: Readonly<{ pack: string; offset: number; plain: Buffer }> | undefined;

  /** Opens the vault in `folder`; `recoveryKey` as it was printed. */
  constructor(folder: string, recoveryKey: string) {
    this.#folder = folder;
    this.#keys = openKeys(folder, recoveryKey);
    const first = this.#keys.ring.get(1);
    demand(first !== undefined, "key ring: epoch 1");
    this.#blockKey = deriveKey(first, this.#keys.vaultId, "kluis/v1/block-id");
    this.#nodeKey = deriveKey(first, this.#keys.vaultId, "kluis/v1/node-id");
    this.#checksumKey = deriveKey(first, this.#keys.vaultId, "kluis/v1/checksum");
    for (const name of names(folder, "index")) {
      const segment = new Container(readNamed(folder, `index/${name}`), 3, this.#keys);
      readSegment(segment.content(), this.#index);
    }
  }

  /** All recovery points, oldest first. */
  points(): Point[] {
    const points: Point[] = [];
    for (const item of names(this.#folder, "points")) {
      for (const name of names(this.#folder, `points/${item}`)) {
        const object = readFileSync(join(this.#folder, "points", item, name));
        const isDeleted = existsSync(join(this.#folder, "deleted", item, name));
        if (isDeleted || object.length === tombstoneBytes) continue;
        const text = new Container(object, containerTypes.manifest, this.#keys).content();
        const point = JSON.parse(text.toString("utf8")) as Point;
        demand(point.pointId === name, "manifest: another point's");
        points.push(point);
      }
    }
    return points.sort((a, b) => (a.pointId < b.pointId ? -1 : 1));
  }

  /** Writes the disk to a new file `target`; what is zero is left sparse. */
  restore(disk: Disk, target: string): void {
    const file = openSync(target, "wx");
    try {
      ftruncateSync(file, disk.sizeBytes);
      if (disk.root === null) return;
      for (const [offset, window] of this.#windows(disk.root, disk.level, 0)) {
        const bytes = this.#window(window);
        demand(offset < disk.sizeBytes, "map: content after the end of the disk");
        const length = Math.min(WINDOW, disk.sizeBytes - offset);
        demand(writeSync(file, bytes, 0, length, offset) === length, "target is full");
      }
    } finally {
      closeSync(file);
    }
  }

  /** Windows below a node that are not all zeros, with their offsets on the disk. */
  *#windows(id: string, level: number, offset: number): Generator<[number, Window]> {
    const node = parseNode(this.#content(id, containerTypes.mapPack));
    demand(node.level === level, "map: level of a node");
    if ("windows" in node) {
      for (const [at, window] of node.windows.entries()) {
        if (window.pieces.length > 0) yield [offset + at * WINDOW, window];
      }
    } else {
      const span = LEAF * 16 ** (level - 1);
      for (const [at, child] of node.children.entries()) {
        if (child !== undefined) yield* this.#windows(child, level - 1, offset + at * span);
      }
    }
  }

  #window(window: Window): Buffer {
    const bytes = Buffer.concat(window.pieces.map((piece) => this.#piece(piece)));
    const mac = createCipheriv("aes-256-gcm", this.#checksumKey, Buffer.alloc(12));
    mac.setAAD(bytes).final();
    demand(mac.getAuthTag().equals(window.checksum), "window: checksum");
    return bytes;
  }

  #piece({ pages, block, offset }: Piece): Buffer {
    if (block === undefined) return Buffer.alloc(pages * PAGE);
    const content = this.#content(block, containerTypes.pack);
    demand((offset + pages) * PAGE <= content.length, "piece ends after its block");
    return content.subarray(offset * PAGE, (offset + pages) * PAGE);
  }

  /** The block or node with an id, checked against it. */
  #content(id: string, type: number): Buffer {
    const location = this.#index.get(id);
    demand(location?.type === type, `index: no entry for ${id}`);
    const frame = this.#openFrame(location);
    const content = frame.subarray(location.offset, location.offset + location.length);
    const key = type === containerTypes.pack ? this.#blockKey : this.#nodeKey;
    demand(Buffer.from(blake3(content, { key })).toString("hex", 0, 24) === id, "content: its id");
    return content;
  }

  #openFrame({ type, pack, frameOffset }: Location): Buffer {
    if (this.#frame?.pack === pack && this.#frame.offset === frameOffset) return this.#frame.plain;
    if (this.#pack?.name !== pack) {
      const folder = type === containerTypes.pack ? "packs" : "maps";
      const object = readNamed(this.#folder, `${folder}/${pack.slice(0, 2)}/${pack}`);
      this.#pack = { name: pack, container: new Container(object, type, this.#keys) };
    }
    const plain = this.#pack.container.openAt(frameOffset);
    this.#frame = { pack, offset: frameOffset, plain };
    return plain;
  }
}

function openKeys(folder: string, recoveryKey: string): VaultKeys {
  const header = readFileSync(join(folder, "vault.json"), "utf8");
  const { format, version, vaultId, sha256 } = JSON.parse(header) as Record<string, unknown>;
  demand(format === "kluis-vault" && version === 1, "vault.json: format and version");
  demand(typeof vaultId === "string" && vaultId.length === 32, "vault.json: vault id");
  demand(
    sha256 === hashOf(Buffer.from(header.slice(0, header.indexOf(',"sha256":')))),
    "vault.json",
  );
  const secret = parseRecoveryKey(recoveryKey);
  for (const name of names(folder, "keys")) {
    const slot = openRecoverySlot(readNamed(folder, `keys/${name}`).toString(), vaultId, secret);
    if (slot === undefined) continue;
    return { vaultId: Buffer.from(vaultId, "hex"), ring: ringOfNow(folder, vaultId, slot) };
  }
  throw new Error("no key slot of this vault opens with a recovery key");
}

/** The ring of the newest key record that reads, or of its copy; without any, that of the slot. */
function ringOfNow(folder: string, vaultId: string, slot: OpenedSlot): KeyRing {
  const records = names(folder, "ring").filter((name) => name.startsWith(`${vaultId}-`));
  // A copy sorts after its record, and both before those of the next number.
  const numbers = [...new Set(records.map((name) => name.slice(0, vaultId.length + 9)))].reverse();
  for (const name of numbers.flatMap((number) => [number, `${number}-copy`])) {
    if (!records.includes(name)) continue;
    const line = readFileSync(join(folder, "ring", name), "utf8");
    const record = parseKeyRecord(line);
    if (record !== undefined) return openKeyRecord(record, line, slot);
  }
  return slot.ring;
}

function hashOf(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** An object whose name ends with the SHA-256 of its content, checked. */
function readNamed(folder: string, name: string): Buffer {
  const object = readFileSync(join(folder, name));
  demand(name.endsWith(hashOf(object)), `${name}: content does not match the name`);
  return object;
}

/** Names in a folder of the vault, sorted; none where it is not there. */
function names(folder: string, under: string): string[] {
  const path = join(folder, under);
  return existsSync(path) ? readdirSync(path).sort() : [];
}
