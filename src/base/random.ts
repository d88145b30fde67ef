/** The one door for randomness. */
import { generateKeyPair, randomFillSync } from "node:crypto";

/** A source of random bytes. */
export interface RandomSource {
  /** `lengthBytes` fresh bytes, owned by the caller. */
  bytes(lengthBytes: number): Uint8Array;
}

/** The operating system's generator; the only source for keys, salts and ids. */
export const systemRandom: RandomSource = {
  bytes: (lengthBytes) => randomFillSync(new Uint8Array(lengthBytes)),
};

/** A new RSA key in PKCS #8 (DER), made in the thread pool; takes 0.1 to 1 s. OpenSSL finds the primes. */
export function generateRsaKey(modulusBits: 2048 | 3072 | 4096): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const privateKeyEncoding = { type: "pkcs8", format: "der" } as const;
    const publicKeyEncoding = { type: "spki", format: "der" } as const;
    const options = { modulusLength: modulusBits, privateKeyEncoding, publicKeyEncoding };
    generateKeyPair("rsa", options, (error, _publicKey, privateKey) => {
      if (error === null) resolve(privateKey);
      else reject(error);
    });
  });
}
