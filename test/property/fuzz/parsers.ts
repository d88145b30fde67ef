/**
 * The table of all parsers that read the store, with what feeds each of them. `fuzz-parsers.test.ts`
 * fails where a parser of src/formats or src/vault stands in neither this table nor `wire-parsers.ts`.
 */
import assert from "node:assert/strict";
import { createCipheriv, createHash } from "node:crypto";
import { resolve } from "node:path";
import { zstdCompressSync } from "node:zlib";

import { concatBytes } from "#base/bytes.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { freeBuffer } from "#base/free-buffer.ts";
import {
  encodeContainerHeader,
  encodeTrailer,
  frameHeaderBytes,
  parseContainerHeader,
  parseFrameHeader,
  parseTrailer,
  sealedBytesMax,
  trailerBytes,
  writeFrameHeader,
  type FrameHeader,
} from "#formats/container.ts";
import {
  type ControlRecord,
  encodeControlRecord,
  parseControlRecord,
} from "#formats/control-record.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import {
  encodeIndexSegment,
  fromIndexColumns,
  parseIndexSegment,
  parsePackFooter,
} from "#formats/index-segment.ts";
import { encodeKeyFile, parseKeyFile } from "#formats/key-file.ts";
import { encodeKeyRecord, parseKeyRecord } from "#formats/key-record.ts";
import { encodeKeySlot, parseKeySlot } from "#formats/key-slot.ts";
import {
  encodeLedgerBody,
  encodeLedgerMac,
  type LedgerLine,
  parseLedgerPart,
} from "#formats/ledger-part.ts";
import { encodeManifest, parseManifest } from "#formats/manifest.ts";
import { encodeLockPolicy, parseLockPolicy } from "#formats/lock-policy.ts";
import { encodeInner, encodeLeaf, parseInner, parseLeaf } from "#formats/map-node.ts";
import { isObjectName } from "#formats/object-name.ts";
import { formatRecoveryKey, parseRecoveryKey } from "#formats/recovery-key.ts";
import { encodeSecondaryMarker, parseSecondaryMarker } from "#formats/secondary-marker.ts";
import {
  beatName,
  condemnedName,
  decisionName,
  deletedName,
  indexSegmentName,
  leaseName,
  keyRecordName,
  keyRecordPrefix,
  ledgerName,
  mapPackName,
  packName,
  parsePointId,
  parseStoreName,
  pointName,
  secondaryMarkerName,
  slotName,
  vaultHeaderName,
} from "#formats/store-names.ts";
import { encodeVaultHeader, parseVaultHeader } from "#formats/vault-header.ts";
import { encodeVaultMemory, parseVaultMemory } from "#formats/vault-memory.ts";
import { openContainer, openFetchedFrame, sealOf } from "#vault/container/container-reader.ts";
import { openFrame } from "#vault/container/frame.ts";
import { encodeKeyEpochs, parseKeyEpochs } from "#vault/keys/key-ring.ts";
import { deriveContainerKey } from "#vault/keys/vault-keys.ts";
import { parseInnerAt, parseLeafAt } from "#vault/map/map-source.ts";
import type { Corpus } from "./corpus.ts";

/** One parser, or two that belong together. */
export interface Fuzzer {
  readonly name: string;
  /** The exported functions that it is about. */
  readonly covers: readonly string[];
  /** Codes of the errors that a hostile input may end with. */
  readonly errors: readonly ErrorCode[];
  readonly isText?: true;
  /** Valid inputs. */
  inputs(corpus: Corpus): readonly Uint8Array[];
  /**
   * Parses `bytes`. Returns the encoding of what was read, for formats of which one content has
   * exactly one encoding; it then must equal `bytes`.
   */
  parse(bytes: Uint8Array, corpus: Corpus): Uint8Array | undefined;
}

const objectName = "packs/00/fuzz";
const id = new Uint8Array(24).fill(1);
const salt = new Uint8Array(32).fill(2);
const corruptOnly: readonly ErrorCode[] = ["ObjectCorrupt"];
const ofStore: readonly ErrorCode[] = ["ObjectCorrupt", "StoreFormatNewer", "StoreForeign"];
const ofContainer: readonly ErrorCode[] = [...ofStore, "KeyWrong"];
const ofArgument: readonly ErrorCode[] = ["ArgumentInvalid"];

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "latin1"));
}

const formats: readonly Fuzzer[] = [
  {
    name: "vault.json",
    covers: ["parseVaultHeader"],
    errors: ofStore,
    isText: true,
    inputs: ({ plain }) => [...plain].flatMap(([name, bytes]) => isHeader(name, bytes)),
    parse: (bytes) => encodeVaultHeader(parseVaultHeader(bytes)),
  },
  {
    name: "vault.json whose checksum is right",
    covers: ["parseVaultHeader"],
    errors: ofStore,
    isText: true,
    inputs: ({ plain }) => [...plain].flatMap(([name, bytes]) => isHeader(name, bytes)),
    parse: (bytes) => {
      const header = withChecksum(bytes);
      assert.deepEqual(encodeVaultHeader(parseVaultHeader(header)), header);
      return undefined;
    },
  },
  {
    name: "key slot",
    covers: ["parseKeySlot"],
    errors: ofStore,
    isText: true,
    inputs: ({ plain }) => [
      ...[...plain].flatMap(([name, bytes]) => (name.startsWith("keys/") ? [bytes] : [])),
      passphraseSlot(),
      providedSlot(),
    ],
    parse: (bytes) => encodeKeySlot(parseKeySlot(bytes)),
  },
  {
    name: "secondary.json",
    covers: ["parseSecondaryMarker"],
    errors: ["ObjectCorrupt", "StoreFormatNewer"],
    isText: true,
    inputs: () =>
      (["secondary", "copy"] as const).map((role) => {
        return encodeSecondaryMarker({ role, vaultId: new Uint8Array(16).fill(7) });
      }),
    parse: (bytes) => encodeSecondaryMarker(parseSecondaryMarker(bytes)),
  },
  {
    name: "immutability policy",
    covers: ["parseLockPolicy"],
    errors: ["ObjectCorrupt", "StoreFormatNewer"],
    isText: true,
    inputs: () => [encodeLockPolicy({ periodMs: 2_592_000_000, generationMs: 864_000_000 })],
    parse: (bytes) => encodeLockPolicy(parseLockPolicy(bytes)),
  },
  {
    name: "what a host remembers of a vault",
    covers: ["parseVaultMemory"],
    errors: ["ObjectCorrupt", "StoreFormatNewer"],
    isText: true,
    inputs: () => {
      const vaultId = new Uint8Array(16).fill(7);
      const seen = { number: 9, sha256: salt };
      return [
        encodeVaultMemory({ vaultId, parts: [] }),
        encodeVaultMemory({ vaultId, parts: [seen, { ...seen, number: 8 }], record: seen }),
      ];
    },
    parse: (bytes) => encodeVaultMemory(parseVaultMemory(bytes)),
  },
  {
    name: "key record",
    covers: ["parseKeyRecord"],
    errors: ofStore,
    isText: true,
    inputs: ({ plain }) => keyRecords(plain),
    parse: (bytes) => encodeKeyRecord(parseKeyRecord(bytes)),
  },
  {
    name: "key record whose checksum is right",
    covers: ["parseKeyRecord"],
    errors: ofStore,
    isText: true,
    inputs: ({ plain }) => keyRecords(plain),
    parse: (bytes) => {
      const record = withChecksum(bytes);
      assert.deepEqual(encodeKeyRecord(parseKeyRecord(record)), record);
      return undefined;
    },
  },
  {
    name: "key ring",
    covers: ["parseKeyEpochs"],
    errors: corruptOnly,
    inputs: () => [1, 2, 256].map((count) => keyRing(count)),
    parse: (bytes) => encodeKeyEpochs(parseKeyEpochs(bytes)),
  },
  {
    name: "key file",
    covers: ["parseKeyFile"],
    errors: ofArgument,
    isText: true,
    inputs: () => [encodeKeyFile(salt)],
    parse: (bytes) => encodeKeyFile(parseKeyFile(bytes)).subarray(0, bytes.byteLength),
  },
  {
    name: "recovery key",
    covers: ["parseRecoveryKey"],
    errors: ofArgument,
    isText: true,
    inputs: () => [bytesOf(formatRecoveryKey(salt.subarray(0, 20)))],
    parse: (bytes) => {
      const secret = parseRecoveryKey(textOf(bytes));
      assert.deepEqual(parseRecoveryKey(formatRecoveryKey(secret)), secret);
      return undefined;
    },
  },
  {
    name: "manifest",
    covers: ["parseManifest"],
    errors: corruptOnly,
    isText: true,
    inputs: ({ containers }) => contentsOf(containers, "manifest"),
    parse: (bytes) => {
      const manifest = parseManifest(bytes, objectName);
      assert.deepEqual(parseManifest(encodeManifest(manifest), objectName), manifest);
      return undefined;
    },
  },
  {
    name: "part of the inventory or of the findings",
    covers: ["parseLedgerPart"],
    errors: corruptOnly,
    isText: true,
    inputs: ledgerParts,
    parse: (bytes) => {
      const part = parseLedgerPart(bytes, objectName);
      return concatBytes([encodeLedgerBody(part), encodeLedgerMac(part.epoch, part.mac)]);
    },
  },
  {
    name: "index segment",
    covers: ["parseIndexSegment"],
    errors: corruptOnly,
    inputs: ({ containers }) => contentsOf(containers, "indexSegment"),
    parse: (bytes) => encodeIndexSegment(parseIndexSegment(bytes).map(fromIndexColumns)),
  },
  {
    name: "pack footer",
    covers: ["parsePackFooter"],
    errors: corruptOnly,
    inputs: ({ containers }) =>
      containers.flatMap(({ footer }) => (footer.byteLength > 0 ? [footer] : [])),
    parse: (bytes) => {
      const zeros = new Uint8Array(32);
      return encodeIndexSegment([fromIndexColumns(parsePackFooter(bytes, zeros))]);
    },
  },
  {
    name: "leaf",
    covers: ["parseLeaf", "parseLeafAt"],
    errors: corruptOnly,
    inputs: ({ leaves }) => leaves,
    parse: (bytes) => {
      parseLeafAt(id, bytes, { level: 0, index: 0, sizeBytes: 2 ** 40 });
      return encodeLeaf(parseLeaf(bytes));
    },
  },
  {
    name: "inner node",
    covers: ["parseInner", "parseInnerAt"],
    errors: corruptOnly,
    inputs: ({ inner }) => inner,
    parse: (bytes) => {
      const node = parseInner(bytes);
      parseInnerAt(id, bytes, { level: 1, index: 0, sizeBytes: 2 ** 40 });
      return encodeInner(node);
    },
  },
  {
    name: "name of an object",
    covers: ["parseStoreName", "isObjectName"],
    errors: [],
    isText: true,
    inputs: ({ names }) =>
      [...names, ...controlRecords.keys(), beatName(session, 5), "points/x", "tmp/a", "a/b.c"].map(
        bytesOf,
      ),
    parse: (bytes) => parseName(textOf(bytes)),
  },
  {
    name: "control record",
    covers: ["parseControlRecord"],
    errors: ofStore,
    isText: true,
    inputs: () => [...controlRecords].map(([name, record]) => encodeControlRecord(name, record)),
    parse: (bytes) => {
      const name = textOf(bytes).split("\n", 1)[0] ?? "";
      return encodeControlRecord(name, parseControlRecord(bytes, name));
    },
  },
  {
    name: "recovery point id",
    covers: ["parsePointId"],
    errors: ofArgument,
    isText: true,
    inputs: () => [bytesOf(`${"0".repeat(12)}-${"f".repeat(16)}`)],
    parse: (bytes) => bytesOf(parsePointId(textOf(bytes))),
  },
];

const session = "0123456789abcdef";
const aManifest = pointName("0".repeat(32), `${"0".repeat(12)}-${"1".repeat(16)}`);
const controlRecords: ReadonlyMap<string, ControlRecord> = new Map<string, ControlRecord>([
  [leaseName(session), { kind: "lease", purpose: "backup", commitKey: aManifest }],
  [
    leaseName("1".repeat(16)),
    { kind: "lease", purpose: "collection", commitKey: decisionName("1".repeat(16)) },
  ],
  [
    condemnedName(session),
    {
      kind: "condemned",
      packs: [packName(new Uint8Array(32)), mapPackName(new Uint8Array(32).fill(7))],
      segments: [indexSegmentName(new Uint8Array(32))],
      manifests: [aManifest],
    },
  ],
  [decisionName(session), { kind: "decision" }],
  [deletedName(aManifest), { kind: "deleted" }],
]);

const containers: readonly Fuzzer[] = [
  {
    name: "header of a container",
    covers: ["parseContainerHeader"],
    errors: ofStore,
    inputs: (corpus) => corpus.containers.map(({ bytes }) => bytes.slice(0, 64)),
    parse: (bytes) => {
      const header = encodeContainerHeader(parseContainerHeader(bytes, objectName));
      return concatBytes([header, bytes.subarray(64)]);
    },
  },
  {
    name: "header of a frame",
    covers: ["parseFrameHeader"],
    errors: corruptOnly,
    inputs: (corpus) => corpus.containers.map(({ bytes }) => bytes.slice(64, 80)),
    parse: (bytes) => {
      const header = new Uint8Array(frameHeaderBytes);
      writeFrameHeader(header, 0, parseFrameHeader(bytes, 0, objectName));
      return concatBytes([header, bytes.subarray(frameHeaderBytes)]);
    },
  },
  {
    name: "trailer",
    covers: ["parseTrailer"],
    errors: corruptOnly,
    inputs: (corpus) => corpus.containers.map(({ bytes }) => bytes.slice(-trailerBytes)),
    parse: (bytes) => encodeTrailer(parseTrailer(bytes, 100_000, objectName)),
  },
  {
    name: "container",
    covers: ["openContainer"],
    errors: ofContainer,
    inputs: (corpus) => corpus.containers.map(({ bytes }) => bytes),
    parse: (bytes, { keys }) => {
      const type = (["pack", "mapPack", "indexSegment", "manifest"] as const)[(bytes[8] ?? 1) - 1];
      openContainer(keys, { name: objectName, bytes, type: type ?? "pack" });
      return undefined;
    },
  },
  {
    name: "frame whose seal is right",
    covers: ["openFrame", "openFetchedFrame", "parseFetchedHeader"],
    errors: corruptOnly,
    inputs: () => frameBodies(),
    parse: (bytes, corpus) => {
      openSealedFrame(bytes, corpus);
      return undefined;
    },
  },
];

/** Every parser of the store. */
export const storeParsers: readonly Fuzzer[] = [...formats, ...containers];

function isHeader(name: string, bytes: Uint8Array): readonly Uint8Array[] {
  return name === vaultHeaderName ? [bytes] : [];
}

/** The bytes with the checksum in their end made right again. */
function withChecksum(bytes: Uint8Array): Uint8Array {
  const tail = (digest: string): string => `,"sha256":"${digest}"}\n`;
  const body = bytes.slice(0, Math.max(0, bytes.byteLength - tail("0".repeat(64)).length));
  return concatBytes([body, bytesOf(tail(createHash("sha256").update(body).digest("hex")))]);
}

function contentsOf(
  all: Corpus["containers"],
  type: Corpus["containers"][number]["type"],
): readonly Uint8Array[] {
  return all.flatMap((one) => (one.type === type ? [one.content] : []));
}

function passphraseSlot(): Uint8Array {
  return encodeKeySlot({
    vaultId: new Uint8Array(16).fill(7),
    type: "passphrase",
    kdf: { name: "argon2id", salt, memoryKib: 65_536, passes: 3, parallelism: 4 },
    publicKey: salt,
    nonce: new Uint8Array(12),
    sealed: new Uint8Array(50),
  });
}

function providedSlot(): Uint8Array {
  const key = "https://localhost/keys/name/version";
  return encodeKeySlot({
    vaultId: new Uint8Array(16).fill(7),
    type: "customer-key",
    kdf: { name: "RSA-OAEP-256", key, follow: true, wrapped: new Uint8Array(256) },
    publicKey: salt,
    nonce: new Uint8Array(12),
    sealed: new Uint8Array(50),
  });
}

function keyRecords(plain: Corpus["plain"]): readonly Uint8Array[] {
  return [...plain].flatMap(([name, bytes]) => (name.startsWith(keyRecordPrefix) ? [bytes] : []));
}

function keyRing(count: number): Uint8Array {
  const epochs = Array.from({ length: count }, (_, at) => ({
    epoch: at * at + 1,
    masterKey: salt,
  }));
  return encodeKeyEpochs(epochs);
}

/** What a name says must lead back to it, and a name that drivers take stays inside their folder. */
function parseName(text: string): Uint8Array | undefined {
  if (isObjectName(text)) {
    assert.equal(resolve("/store", text), `/store/${text}`);
    assert.ok(!text.startsWith("tmp/") && text !== "tmp");
  }
  const name = parseStoreName(text);
  if (name === undefined) return undefined;
  assert.ok(isObjectName(text), "drivers take every name of a vault");
  if (name.kind === "vault-header") return bytesOf(vaultHeaderName);
  if (name.kind === "secondary-marker") return bytesOf(secondaryMarkerName);
  if (name.kind === "key-record") return bytesOf(keyRecordName(name, name));
  if (name.kind === "manifest") return bytesOf(pointName(name.item, name.point));
  if (name.kind === "deleted") return bytesOf(deletedName(pointName(name.item, name.point)));
  if (name.kind === "beat") return bytesOf(beatName(name.session, name.timeMs));
  if (name.kind === "lease") return bytesOf(leaseName(name.session));
  if (name.kind === "condemned") return bytesOf(condemnedName(name.session));
  if (name.kind === "decision") return bytesOf(decisionName(name.session));
  if (name.kind === "inventory" || name.kind === "findings") {
    return bytesOf(ledgerName(name.kind, name.number, name.sha256));
  }
  const build = {
    slot: slotName,
    pack: packName,
    "map-pack": mapPackName,
    "index-segment": indexSegmentName,
  }[name.kind];
  return bytesOf(build(name.sha256));
}

/** One part with every kind of line, and one of each folder without any. */
function ledgerParts(): readonly Uint8Array[] {
  const [sha256, name] = ["ab".repeat(32), packName(salt)];
  const lines: readonly LedgerLine[] = [
    { kind: "after", sha256 },
    { kind: "replaces", generation: 1, sha256 },
    { kind: "add", number: 3, sizeBytes: 4, name },
    { kind: "add", number: 3, sizeBytes: 4, name, sha256 },
    { kind: "remove", generation: 0, name },
    { kind: "damaged", number: 5, name },
    { kind: "sound", number: 6, name },
    { kind: "checked", atMs: 7, upTo: 8, objects: 9, bytes: 10, from: name, to: name },
    { kind: "opened", atMs: 7, upTo: 8, objects: 9, bytes: 10, from: name, to: name },
  ];
  const vaultId = salt.subarray(0, 16);
  return [
    { folder: "inventory" as const, vaultId, number: 1, lines },
    { folder: "findings" as const, vaultId, number: 2, lines: [] },
  ].map((part) => concatBytes([encodeLedgerBody(part), encodeLedgerMac(1, salt)]));
}

/** Frame headers, each with a body that is not sealed yet. */
function frameBodies(): readonly Uint8Array[] {
  const plains = [new Uint8Array(frameBytesMax), new Uint8Array(5000).map((_, at) => at % 50), id];
  return plains.flatMap((plain) => {
    const packed = zstdCompressSync(plain);
    return [frameOf(packed, plain.byteLength, "zstd"), frameOf(id, id.byteLength, "stored")];
  });
}

function frameOf(body: Uint8Array, plainBytes: number, codec: FrameHeader["codec"]): Uint8Array {
  const header = new Uint8Array(frameHeaderBytes);
  const sealedBytes = body.byteLength;
  writeFrameHeader(header, 0, { sealedBytes, plainBytes, frame: 0, kind: "content", codec });
  return concatBytes([header, body]);
}

/** Seals whatever a frame holds as the owner of the key would, so that what opens it gets to see it. */
function openSealedFrame(bytes: Uint8Array, { keys }: Corpus): void {
  const body = bytes.slice(frameHeaderBytes, frameHeaderBytes + sealedBytesMax);
  const head = bytes.slice(0, frameHeaderBytes);
  if (head.byteLength === frameHeaderBytes && body.byteLength > 0) {
    new DataView(head.buffer).setUint32(0, body.byteLength, true);
  }
  const header = parseFrameHeader(head, 0, objectName);
  const container = { type: "pack", epoch: 1, salt } as const;
  const seal = sealOf(keys, container);
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(header.frame, 8);
  const cipher = createCipheriv("aes-256-gcm", deriveContainerKey(keys, container), nonce);
  cipher.setAAD(seal.header);
  cipher.setAAD(head);
  const ciphertext = Buffer.concat([cipher.update(body), cipher.final()]);
  const frame = concatBytes([head, ciphertext, cipher.getAuthTag()]);
  const expected = { sealedBytes: frame.byteLength, plainBytes: header.plainBytes };
  for (const plain of [
    openFetchedFrame(seal, frame, expected, objectName),
    openFrame(seal, header, frame, objectName),
  ]) {
    assert.equal(plain.byteLength, header.plainBytes);
    // As its readers do: a megabyte each, thousands of times.
    freeBuffer(plain);
  }
}
