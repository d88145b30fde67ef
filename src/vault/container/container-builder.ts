/** Builds one container in memory; docs/design/vault-format.md §4. */

import { assert } from "#base/assert.ts";
import type { RandomSource } from "#base/random.ts";
import {
  containerHeaderBytes,
  encodeContainerHeader,
  encodeTrailer,
  footerFrameStart,
  type FrameHeader,
  frameOverheadBytes,
  sealedBytesMax,
  trailerBytes,
} from "#formats/container.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import {
  type ContainerSeal,
  type FetchedFrame,
  type FrameOptions,
  type FramePlace,
  resealFrame,
  sealFrame,
} from "#vault/container/frame.ts";
import {
  containerTypes,
  type ContainerType,
  currentEpoch,
  deriveContainerKey,
  type VaultKeys,
} from "#vault/keys/vault-keys.ts";

const saltBytes = 32;

/** What a frame looks like to an index. */
export interface PlacedFrame {
  readonly header: FrameHeader;
  /** Where the frame starts in the container. */
  readonly offsetBytes: number;
}

/**
 * Appends sealed frames to one buffer.
 *
 * No frame number comes twice under a fresh key, so no nonce does; where several threads seal, each
 * gets numbers of its own, and some may stay unused. The buffer grows where
 * it must; one that was handed in and is large enough is used as it is.
 */
export class ContainerBuilder {
  readonly type: ContainerType;
  readonly epoch: number;
  readonly salt: Uint8Array;
  readonly seal: ContainerSeal;
  #buffer: Uint8Array;
  #length = 0;
  #frames = 0;
  #finished = false;

  /** @param options.buffer Owned by the builder until the container was taken. */
  constructor(options: {
    readonly type: ContainerType;
    readonly keys: VaultKeys;
    readonly random: RandomSource;
    readonly buffer?: Uint8Array;
  }) {
    const { type, keys } = options;
    this.type = type;
    this.epoch = currentEpoch(keys);
    this.salt = options.random.bytes(saltBytes);
    const header = encodeContainerHeader({
      typeByte: containerTypes[type],
      epoch: this.epoch,
      salt: this.salt,
      vaultId: keys.vaultId,
    });
    this.seal = { key: deriveContainerKey(keys, this), header };
    this.#buffer = options.buffer ?? new Uint8Array(64 * 1024);
    this.#buffer.set(header, 0);
    this.#length = containerHeaderBytes;
  }

  /** The first of `count` frame numbers that are the caller's to seal with. */
  reserveFrames(count: number): number {
    const first = this.#frames;
    this.#frames += count;
    assert(this.#frames <= footerFrameStart, "content has fewer frames than there are numbers");
    return first;
  }

  /** Appends frames that were sealed elsewhere under reserved numbers; copied. */
  appendSealed(bytes: Uint8Array): void {
    assert(!this.#finished, "a finished container takes no frame");
    this.#reserve(bytes.byteLength);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  /** Bytes so far. */
  get sizeBytes(): number {
    return this.#length;
  }

  /** Seals `plain` (1 byte to 1 MiB) as the next frame. */
  addFrame(plain: Uint8Array, options: { readonly compress: boolean }): PlacedFrame {
    const frame = this.reserveFrames(1);
    return this.#add(plain, { frame, kind: "content", compress: options.compress });
  }

  /** Seals what a frame of another container holds as the next frame, without opening it. */
  addResealed(from: FetchedFrame): PlacedFrame {
    const to = { seal: this.seal, frame: this.reserveFrames(1) };
    return this.#place(from.bytes.byteLength, (place) => resealFrame(from, to, place));
  }

  /** The bytes of a frame that was placed, from its header to its tag; valid until the next call. */
  frameBytes(placed: PlacedFrame): Uint8Array {
    const { offsetBytes, header } = placed;
    return this.#buffer.subarray(
      offsetBytes,
      offsetBytes + header.sealedBytes + frameOverheadBytes,
    );
  }

  /** Seals `footer`, if any, and ends the container; returns the whole object. The builder is done. */
  finish(footer?: Uint8Array): Uint8Array {
    let footerOffset = 0;
    if (footer !== undefined) {
      footerOffset = this.#length;
      for (let part = 0; part * frameBytesMax < footer.byteLength; part++) {
        const plain = footer.subarray(part * frameBytesMax, (part + 1) * frameBytesMax);
        this.#add(plain, { frame: footerFrameStart + part, kind: "footer", compress: true });
      }
    }
    const trailer = encodeTrailer(footerOffset);
    this.#reserve(trailerBytes);
    this.#buffer.set(trailer, this.#length);
    this.#length += trailerBytes;
    this.#finished = true;
    return this.#buffer.subarray(0, this.#length);
  }

  #add(plain: Uint8Array, options: FrameOptions): PlacedFrame {
    const bytesMax = Math.min(plain.byteLength, sealedBytesMax) + frameOverheadBytes;
    return this.#place(bytesMax, (place) => sealFrame(this.seal, plain, options, place));
  }

  #place(bytesMax: number, seal: (place: FramePlace) => FrameHeader): PlacedFrame {
    assert(!this.#finished, "a finished container takes no frame");
    this.#reserve(bytesMax);
    const offsetBytes = this.#length;
    const header = seal({ target: this.#buffer, at: offsetBytes });
    this.#length += header.sealedBytes + frameOverheadBytes;
    return { header, offsetBytes };
  }

  #reserve(moreBytes: number): void {
    const needed = this.#length + moreBytes;
    if (needed <= this.#buffer.byteLength) return;
    const grown = new Uint8Array(Math.max(needed, this.#buffer.byteLength * 2));
    grown.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = grown;
  }
}
