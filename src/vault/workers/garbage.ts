/**
 * Keeps few the contexts that zstd leaves behind.
 *
 * Each decompression makes a context that only a full collection frees, and V8 sees no hurry.
 * Collecting every few hundred keeps a backup's memory within its bound
 * (docs/adr/0006-vault-engine.md has the figures).
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const contextsMax = 256;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
let contexts = 0;

/** Notes that something was decompressed; collects when much was. */
export function noteContext(): void {
  contexts++;
  if (contexts < contextsMax) return;
  contexts = 0;
  collect();
}
