/** Reads a secret from the terminal without showing it. */
import type { ReadStream } from "node:tty";

import { TypedLine } from "./typed-line.ts";

/**
 * A line from the terminal after `prompt`, which shows nothing of it and is as before when this returns or throws. Ctrl-C is
 * SIGINT as ever; `signal` ends the wait. `undefined` where the line has more than `bytesMax` bytes.
 */
export async function readTyped(
  terminal: ReadStream,
  {
    prompt,
    bytesMax,
    signal,
  }: { readonly prompt: string; readonly bytesMax: number; readonly signal: AbortSignal },
): Promise<Uint8Array | undefined> {
  const line = new TypedLine(bytesMax);
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array | undefined>();
  const onAbort = (): void => reject(signal.reason);
  const onData = (chunk: Uint8Array): void => {
    const state = line.take(chunk);
    if (state === "done") resolve(line.bytes);
    if (state === "too long") resolve(undefined);
    // In raw mode the terminal sends none; who listens for it cancels the work.
    if (state === "interrupted") process.emit("SIGINT");
  };
  signal.addEventListener("abort", onAbort);
  terminal.setRawMode(true);
  process.stderr.write(prompt);
  terminal
    .on("data", onData)
    .once("end", () => resolve(line.bytes))
    .once("error", reject);
  try {
    return await promise;
  } finally {
    signal.removeEventListener("abort", onAbort);
    terminal.off("data", onData);
    terminal.setRawMode(false);
    terminal.pause();
    process.stderr.write("\n");
  }
}
