/**
 * Assembles data packs from frames that worker threads seal.
 *
 * One pack is open, whatever the number of disks and threads; a ticket tells a thread under which
 * salt and frame numbers to seal. A pack that is full gets no more tickets and is finished when the
 * last of its tickets came back. `packBuffers` bounds the packs in memory: {@link take} waits.
 */
import { allocateAligned } from "#base/aligned-memory.ts";
import { assert } from "#base/assert.ts";
import { Pool } from "#base/pool.ts";
import type { RandomSource } from "#base/random.ts";
import { packBytesTarget } from "#formats/geometry.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { packBufferBytes, packBuffers, packEntriesMax, packFooterBytesMax } from "#vault/limits.ts";
import {
  type BuiltPack,
  type FrameTicket,
  PackBuilder,
  type SealedFrame,
} from "#vault/pack/pack-builder.ts";

/** A pack that is ready to be put. Its bytes are lent until `release` is called. */
export interface FinishedPack extends BuiltPack {
  release(): void;
}

/** A ticket for the frames of one segment; give it back with {@link PackAssembler.deliver}. */
export interface SegmentTicket extends FrameTicket {
  readonly pack: OpenPack;
  readonly plainBytes: number;
}

interface OpenPack {
  readonly builder: PackBuilder;
  readonly buffer: Uint8Array;
  tickets: number;
  /** Blocks for which there was a ticket. */
  blocks: number;
  /** Plain bytes of segments that are being sealed for this pack. */
  outstandingBytes: number;
  isClosed: boolean;
}

/** See the file's head. */
export class PackAssembler {
  readonly #keys: VaultKeys;
  readonly #random: RandomSource;
  readonly #signal: AbortSignal;
  readonly #onPack: (pack: FinishedPack) => void;
  readonly #buffers = new Pool({
    size: packBuffers,
    make: () => allocateAligned(packBufferBytes + packFooterBytesMax, "shared"),
  });
  #open: Promise<OpenPack> | undefined;
  /** Sealed bytes for each plain byte, of late; to foresee when a pack is full. */
  #ratio = 1;

  /** @param options.onPack Called once for each pack; must not throw. */
  constructor(options: {
    readonly keys: VaultKeys;
    readonly random: RandomSource;
    readonly signal: AbortSignal;
    readonly onPack: (pack: FinishedPack) => void;
  }) {
    this.#keys = options.keys;
    this.#random = options.random;
    this.#signal = options.signal;
    this.#onPack = options.onPack;
  }

  /** A ticket for at most `blocks` blocks (and so frames) of `plainBytes` together. */
  async take(blocks: number, plainBytes: number): Promise<SegmentTicket> {
    for (;;) {
      this.#open ??= this.#openPack();
      const opening = this.#open;
      const pack = await opening;
      if (pack.isClosed) continue;
      if (pack.blocks + blocks <= packEntriesMax && this.#hasRoom(pack, plainBytes)) {
        pack.tickets++;
        pack.blocks += blocks;
        pack.outstandingBytes += plainBytes;
        return { ...pack.builder.issueTicket(blocks), pack, plainBytes };
      }
      this.#close(pack);
    }
  }

  /** Takes the frames that were sealed under a ticket; copied. */
  deliver(ticket: SegmentTicket, bytes: Uint8Array, frames: readonly SealedFrame[]): void {
    const { pack, plainBytes } = ticket;
    pack.builder.addSealed(bytes, frames);
    this.#ratio += (bytes.byteLength / plainBytes - this.#ratio) / 4;
    this.#settle(pack, plainBytes);
  }

  /** Gives a ticket back whose frames could not be sealed, so that nobody waits for them. */
  abandon(ticket: SegmentTicket): void {
    this.#settle(ticket.pack, ticket.plainBytes);
  }

  /** Finishes the open pack, if any. No ticket may be out. */
  async flush(): Promise<void> {
    const pack = await this.#open;
    if (pack === undefined || pack.isClosed) return;
    assert(pack.tickets === 0, "no ticket is out when packs are flushed");
    this.#close(pack);
  }

  #settle(pack: OpenPack, plainBytes: number): void {
    pack.outstandingBytes -= plainBytes;
    pack.tickets--;
    if (pack.isClosed) this.#finishIfDone(pack);
  }

  async #openPack(): Promise<OpenPack> {
    const buffer = await this.#buffers.take(this.#signal);
    const deps = { keys: this.#keys, random: this.#random };
    const builder = new PackBuilder({ type: "pack", ...deps, verify: false, buffer });
    return { builder, buffer, tickets: 0, blocks: 0, outstandingBytes: 0, isClosed: false };
  }

  #hasRoom(pack: OpenPack, plainBytes: number): boolean {
    const { sizeBytes } = pack.builder;
    const expectedBytes = sizeBytes + pack.outstandingBytes * this.#ratio;
    const worstBytes = sizeBytes + 1.1 * (pack.outstandingBytes + plainBytes);
    return expectedBytes < packBytesTarget && worstBytes < packBufferBytes;
  }

  #close(pack: OpenPack): void {
    pack.isClosed = true;
    this.#open = undefined;
    this.#finishIfDone(pack);
  }

  #finishIfDone(pack: OpenPack): void {
    if (pack.tickets > 0) return;
    const release = (): void => this.#buffers.give(pack.buffer);
    if (pack.builder.isEmpty) release();
    else this.#onPack({ ...pack.builder.finish(), release });
  }
}
