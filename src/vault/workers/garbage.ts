/**
 * Keeps the garbage of a worker thread small.
 *
 * Compression and ciphers return a new buffer for each call, and V8 collects such external memory
 * only when 64 MiB of it have gathered in a thread. A collection of the young generation costs
 * less than a millisecond; one for every 8 MiB keeps a backup's memory within its bound
 * (docs/adr/0006-vault-engine.md has the figures).
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const garbageBytesMax = 8 * 1024 * 1024;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as (options: { readonly type: "minor" }) => void;
let garbageBytes = 0;

/** Notes that `bytes` of buffers were made that nobody keeps; collects when many have gathered. */
export function noteGarbage(bytes: number): void {
  garbageBytes += bytes;
  if (garbageBytes < garbageBytesMax) return;
  garbageBytes = 0;
  collect({ type: "minor" });
}
