/** Seals one text as a container of its own: an index segment or a manifest. */
import type { RandomSource } from "#base/random.ts";
import { frameBytesMax } from "#formats/geometry.ts";
import { ContainerBuilder } from "#vault/container/container-builder.ts";
import { computeName } from "#vault/hashing.ts";
import type { ContainerType, VaultKeys } from "#vault/keys/vault-keys.ts";

/** A container that is ready to be put. */
export interface SealedContainer {
  /** The whole object. */
  readonly bytes: Uint8Array;
  /** SHA-256 of `bytes`, 32 bytes: its name in the store. */
  readonly name: Uint8Array;
}

/** Seals `plain` (1 byte or more) in as many frames as it takes. */
export function buildContainer(
  type: ContainerType,
  plain: Uint8Array,
  deps: { readonly keys: VaultKeys; readonly random: RandomSource },
): SealedContainer {
  const builder = new ContainerBuilder({ type, ...deps });
  for (let at = 0; at < plain.byteLength; at += frameBytesMax) {
    builder.addFrame(plain.subarray(at, at + frameBytesMax), { compress: true });
  }
  const bytes = builder.finish();
  return { bytes, name: computeName(bytes) };
}
