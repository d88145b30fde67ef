/** The one door for randomness. */
import { randomFillSync } from "node:crypto";

/** A source of random bytes. */
export interface RandomSource {
  /** `lengthBytes` fresh bytes, owned by the caller. */
  bytes(lengthBytes: number): Uint8Array;
}

/** The operating system's generator; the only source for keys, salts and ids. */
export const systemRandom: RandomSource = {
  bytes: (lengthBytes) => randomFillSync(new Uint8Array(lengthBytes)),
};
