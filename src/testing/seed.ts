/** Randomness of tests: every run has a seed, prints it, and can be repeated with KLUIS_SEED. */

/** The seed of this process: KLUIS_SEED, else a fresh one. Printed once. */
export function testSeed(): number {
  cachedSeed ??= chooseSeed();
  return cachedSeed;
}

let cachedSeed: number | undefined;

function chooseSeed(): number {
  const given = process.env["KLUIS_SEED"];
  const seed = given === undefined ? Math.trunc(Math.random() * 0x7fff_ffff) : Number(given);
  if (!Number.isSafeInteger(seed))
    throw new Error(`KLUIS_SEED is not an integer: "${given ?? ""}"`);
  console.log(`seed ${String(seed)} (repeat with KLUIS_SEED=${String(seed)})`);
  return seed;
}

/** A small deterministic generator. Not for secrets. */
export interface Prng {
  uint32(): number;
  /** An integer from 0 up to but not `bound`, which is at most 2^48. */
  below(bound: number): number;
  bytes(lengthBytes: number): Uint8Array;
}

/** A {@link Prng} that gives the same numbers for the same seed (xorshift32 over a mixed seed). */
export function createPrng(seed: number): Prng {
  let state = mix32(seed) || 1;
  function uint32(): number {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  }
  return {
    uint32,
    below: (bound) => (uint32() * 0x10000 + (uint32() >>> 16)) % bound,
    bytes: (lengthBytes) => {
      const bytes = new Uint8Array(lengthBytes);
      for (let at = 0; at < lengthBytes; at++) bytes[at] = uint32();
      return bytes;
    },
  };
}

/** A bijective mix of 32 bits: near seeds give unlike states. */
export function mix32(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x45d9_f3b);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x45d9_f3b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
