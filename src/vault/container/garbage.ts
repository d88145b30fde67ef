/**
 * Keeps few the contexts that zstd leaves behind.
 *
 * Each decompression in a context of its own leaves that to a full collection, and V8 sees no hurry.
 * Collecting every few hundred keeps a backup's memory within its bound
 * (docs/adr/0006-vault-engine.md has the figures).
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const contextsMax = 256;

let contexts = 0;
let collect: (() => void) | undefined;

/** Notes that something was decompressed; collects when much was. */
export function noteContext(): void {
  contexts++;
  if (contexts < contextsMax) return;
  contexts = 0;
  collect ??= exposeCollector();
  collect();
}

function exposeCollector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}
