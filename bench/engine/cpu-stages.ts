/** Stages that one thread computes, on windows of real data in memory. */
import { createCipheriv, createDecipheriv, createHash } from "node:crypto";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";

import { Blake3Hasher } from "@napi-rs/blake-hash";

import { asBuffer, isZero } from "#base/bytes.ts";
import { systemRandom } from "#base/random.ts";
import { type FrameHeader, frameOverheadBytes } from "#formats/container.ts";
import { frameBytesMax, windowBytes } from "#formats/geometry.ts";
import { testKeys } from "#testing/memory-vault.ts";
import { ContainerBuilder } from "#vault/container/container-builder.ts";
import { sealOf } from "#vault/container/container-reader.ts";
import { openFrame, sealFrame } from "#vault/container/frame.ts";
import { computeId, computeName, computeWindowChecksum } from "#vault/hashing.ts";
import { assertReadsBack, type FrameBlock } from "#vault/pack/pack-builder.ts";

import type { StageWork } from "./rate.ts";

const nonce = new Uint8Array(12);
const tagBytes = 16;
const windowsPerFrame = frameBytesMax / windowBytes;
const { blockIdKey, checksumKey } = testKeys;
const seal = sealOf(testKeys, { type: "pack", epoch: 1, salt: new Uint8Array(32).fill(5) });

/** A sealed frame of the sample. */
interface SampleFrame {
  readonly plain: Uint8Array;
  readonly header: FrameHeader;
  readonly sealed: Uint8Array;
  readonly blocks: readonly FrameBlock[];
}

/**
 * Every stage of a backup and a restore that computes.
 *
 * @param sample Windows of 256 KiB, none of them all zeros; a multiple of 1 MiB.
 */
export function createCpuStages(sample: Uint8Array): readonly StageWork[] {
  const windows = cut(sample, windowBytes);
  const frames = cut(sample, frameBytesMax);
  const bytes = sample.byteLength;
  return [
    createZeroStage(bytes),
    {
      name: "block id",
      bytes,
      work: () => each(windows, (window) => computeId(blockIdKey, window)),
      limitName: "keyed BLAKE3, one call",
      limitWork: () => void Blake3Hasher.newKeyed(asBuffer(blockIdKey)).update(asBuffer(sample)),
    },
    {
      name: "window checksum",
      bytes,
      work: () => each(windows, (window) => computeWindowChecksum(checksumKey, window)),
      limitName: "AES-256-GCM tag, 1 MiB a call",
      limitWork: () =>
        each(frames, (frame) => {
          const cipher = createCipheriv("aes-256-gcm", checksumKey, nonce);
          cipher.setAAD(frame);
          cipher.final();
          return cipher.getAuthTag();
        }),
    },
    ...createSealStages(frames, bytes),
    ...createOpenStages(frames, bytes),
    createPackStage(frames, bytes),
  ];
}

function createZeroStage(bytes: number): StageWork {
  const zeros = new Uint8Array(windowBytes);
  const others = new Uint8Array(windowBytes);
  const count = bytes / windowBytes;
  return {
    name: "zero test (of zeros)",
    bytes,
    work: () => {
      for (let at = 0; at < count; at++) isZero(zeros);
    },
    limitName: "memcmp",
    limitWork: () => {
      for (let at = 0; at < count; at++) Buffer.compare(zeros, others);
    },
  };
}

function createSealStages(frames: readonly Uint8Array[], bytes: number): readonly StageWork[] {
  const target = new Uint8Array(frameBytesMax + frameOverheadBytes + 65_536);
  const sealEach = (compress: boolean): void =>
    each(frames, (plain) =>
      sealFrame(seal, plain, { frame: 1, kind: "content", compress }, { target, at: 0 }),
    );
  return [
    {
      name: "encrypt frames",
      bytes,
      work: () => sealEach(false),
      limitName: "AES-256-GCM, 1 MiB a call",
      limitWork: () => each(frames, (frame) => encrypt(frame)),
    },
    {
      name: "compress and encrypt frames",
      bytes,
      work: () => sealEach(true),
      limitName: "zstd level 1, 1 MiB a call, alone",
      limitWork: () => each(frames, (frame) => compress(frame, 1)),
    },
  ];
}

function createOpenStages(frames: readonly Uint8Array[], bytes: number): readonly StageWork[] {
  const sealed = frames.map((plain) => sealSample(plain));
  const raw = frames.map((plain) => {
    const packed = compress(plain, 1);
    return { packed, ...encrypt(packed) };
  });
  return [
    {
      name: "open and verify frames",
      bytes,
      work: () =>
        each(sealed, (frame) => {
          const plain = openFrame(seal, frame.header, frame.sealed, "a frame of the bench");
          assertReadsBack(plain, frame.blocks, blockIdKey);
        }),
      limitName: "AES-256-GCM, zstd and BLAKE3, 1 MiB a call",
      limitWork: () =>
        each(raw, ({ body, tag }) => {
          const plain = zstdDecompressSync(decrypt(body, tag), { chunkSize: frameBytesMax });
          Blake3Hasher.newKeyed(asBuffer(blockIdKey)).update(plain).digestBuffer();
        }),
    },
  ];
}

function createPackStage(frames: readonly Uint8Array[], bytes: number): StageWork {
  const buffer = new Uint8Array(bytes + 4 * frameBytesMax);
  return {
    name: "put frames into a pack",
    bytes,
    work: () => {
      const builder = new ContainerBuilder({
        type: "pack",
        keys: testKeys,
        random: systemRandom,
        buffer,
      });
      for (const frame of frames) builder.appendSealed(frame);
      computeName(builder.finish());
    },
    limitName: "SHA-256, 1 MiB a call",
    limitWork: () => {
      const hash = createHash("sha256");
      for (const frame of frames) hash.update(frame);
      hash.digest();
    },
  };
}

function sealSample(plain: Uint8Array): SampleFrame {
  const target = new Uint8Array(frameBytesMax + frameOverheadBytes + 65_536);
  const options = { frame: 1, kind: "content", compress: true } as const;
  const header = sealFrame(seal, plain, options, { target, at: 0 });
  const blocks = Array.from({ length: windowsPerFrame }, (_, at) => {
    const offsetBytes = at * windowBytes;
    const content = plain.subarray(offsetBytes, offsetBytes + windowBytes);
    return { id: computeId(blockIdKey, content), offsetBytes, lengthBytes: windowBytes };
  });
  return {
    plain,
    header,
    sealed: target.slice(0, header.sealedBytes + frameOverheadBytes),
    blocks,
  };
}

function compress(plain: Uint8Array, level: number): Uint8Array {
  return zstdCompressSync(plain, {
    chunkSize: frameBytesMax,
    params: { [constants.ZSTD_c_compressionLevel]: level },
  });
}

function encrypt(plain: Uint8Array): { readonly body: Uint8Array; readonly tag: Uint8Array } {
  const cipher = createCipheriv("aes-256-gcm", checksumKey, nonce);
  const body = cipher.update(plain);
  cipher.final();
  return { body, tag: cipher.getAuthTag() };
}

function decrypt(body: Uint8Array, tag: Uint8Array): Uint8Array {
  const options = { authTagLength: tagBytes };
  const decipher = createDecipheriv("aes-256-gcm", checksumKey, nonce, options);
  decipher.setAuthTag(tag);
  const plain = decipher.update(body);
  decipher.final();
  return plain;
}

function cut(sample: Uint8Array, lengthBytes: number): readonly Uint8Array[] {
  return Array.from({ length: sample.byteLength / lengthBytes }, (_, at) =>
    sample.subarray(at * lengthBytes, (at + 1) * lengthBytes),
  );
}

function each<T>(items: readonly T[], work: (item: T) => unknown): void {
  for (const item of items) work(item);
}
