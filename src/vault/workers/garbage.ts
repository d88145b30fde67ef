/**
 * Keeps the contexts small that zstd leaves behind.
 *
 * A compression's context takes more than a megabyte, which only a full collection frees, and V8
 * sees no hurry. Collecting every few dozen keeps a backup's memory within its bound
 * (docs/adr/0006-vault-engine.md has the figures).
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const contextsMax = 32;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
let contexts = 0;

/** Notes that a compression was made; collects when many were. */
export function noteContext(): void {
  contexts++;
  if (contexts < contextsMax) return;
  contexts = 0;
  collect();
}
