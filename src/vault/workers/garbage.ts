/**
 * Keeps the garbage of a worker thread small.
 *
 * Ciphers return a new buffer for each call, which a collection of the young generation frees.
 * Every compression leaves a context of more than a megabyte behind, which only a full one frees. By
 * itself V8 waits until 64 MiB have gathered in each thread; collecting earlier keeps a backup's
 * memory within its bound (docs/adr/0006-vault-engine.md has the figures).
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const bufferBytesMax = 8 * 1024 * 1024;
const contextsMax = 8;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as (options: { readonly type: "minor" | "major" }) => void;
let bufferBytes = 0;
let contexts = 0;

/** Notes external memory that nobody keeps: bytes of buffers, and contexts of zstd. */
export function noteGarbage(garbage: {
  readonly bufferBytes: number;
  readonly contexts: number;
}): void {
  bufferBytes += garbage.bufferBytes;
  contexts += garbage.contexts;
  if (contexts >= contextsMax) {
    contexts = 0;
    bufferBytes = 0;
    collect({ type: "major" });
  } else if (bufferBytes >= bufferBytesMax) {
    bufferBytes = 0;
    collect({ type: "minor" });
  }
}
