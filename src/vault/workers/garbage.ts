/**
 * Keeps small what zstd leaves to V8: the buffers that it compresses into, which are young, and the
 * contexts that opened frames, which only a full collection frees. V8 itself sees no hurry;
 * docs/adr/0006-vault-engine.md has the figures.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Frames between two collections, of which every other is a full one. */
const framesMax = 12;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as (options: { readonly type: "minor" | "major" }) => void;
let frames = 0;

/** Notes that a frame was compressed and opened again; collects when many were. */
export function noteGarbage(): void {
  frames = (frames + 1) % (2 * framesMax);
  if (frames === framesMax) collect({ type: "minor" });
  else if (frames === 0) collect({ type: "major" });
}
