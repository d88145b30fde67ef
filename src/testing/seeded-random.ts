/** Randomness that a test can repeat: every byte follows from one seed. */
import { createCipheriv, createHash, type Cipheriv } from "node:crypto";

import { assert, present } from "#base/assert.ts";
import type { RandomSource } from "#base/random.ts";
import { testSeed } from "./seed.ts";

/** The seed of this test process (KLUIS_SEED), printed once; also for `fc.assert(…, { seed })`. */
export function readTestSeed(): number {
  return testSeed();
}

/**
 * A generator for one test. `seed` is by default that of the process (KLUIS_SEED); `label` (the test's name)
 * makes the generators of different tests independent.
 */
export function createSeededRandom(label: string, seed: number = testSeed()): SeededRandom {
  return new SeededRandom(`${seed}/${label}`);
}

/** A deterministic {@link RandomSource}: the key stream of AES-128-CTR, at gigabytes a second. */
export class SeededRandom implements RandomSource {
  readonly #stream: Cipheriv;

  constructor(seed: string) {
    const digest = createHash("sha256").update(seed).digest();
    this.#stream = createCipheriv("aes-128-ctr", digest.subarray(0, 16), digest.subarray(16));
  }

  bytes(lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#stream.update(new Uint8Array(lengthBytes)));
  }

  /** An integer from `min` to `max`, both included. */
  integer(min: number, max: number): number {
    assert(Number.isSafeInteger(max - min) && max >= min, "a range of integers");
    return min + Math.floor(this.fraction() * (max - min + 1));
  }

  /** A number from 0 up to, not including, 1. */
  fraction(): number {
    const view = new DataView(this.bytes(8).buffer);
    return (view.getUint32(0) * 2 ** 21 + (view.getUint32(4) >>> 11)) / 2 ** 53;
  }

  /** True with the probability given. */
  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  /** One of `choices`, which is not empty. */
  pick<T>(choices: readonly T[]): T {
    return present(choices[this.integer(0, choices.length - 1)], "there is something to pick");
  }

  /** The same elements in random order, in a new array. */
  shuffle<T>(elements: readonly T[]): T[] {
    const order = [...elements];
    for (let at = order.length - 1; at > 0; at--) {
      const other = this.integer(0, at);
      const moved = order[at] as T;
      order[at] = order[other] as T;
      order[other] = moved;
    }
    return order;
  }
}
