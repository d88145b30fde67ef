/**
 * How QEMU's tools are given the passphrase of encrypted images: as standard input, by a file without
 * a name, so that it is in no argument, no environment and no folder.
 */
import type { FileHandle } from "node:fs/promises";

import { KluisError } from "#base/kluis-error.ts";
import type { ToolResult } from "#drivers/process/run-tool.ts";
import { openSecretInput } from "#drivers/process/secret-input.ts";

/** By this id options of QEMU name the passphrase. */
export const imageKeyId = "kluis-key";

/** At worst every second try fails. */
const MEASURE_TRIES_MAX = 20;

/** What a tool is run with that opens encrypted images; both empty where there is no passphrase. */
export interface ImageKeyInput {
  readonly args: readonly string[];
  readonly options: { readonly stdinFile?: FileHandle };
}

/** Runs `work` with a passphrase at hand; the tool must have opened its images when `work` ends. */
export async function withImageKey<T>(
  passphrase: Uint8Array | undefined,
  work: (key: ImageKeyInput) => Promise<T>,
): Promise<T> {
  if (passphrase === undefined) return await work({ args: [], options: {} });
  const stdinFile = await openSecretInput(passphrase);
  try {
    const args = ["--object", `secret,id=${imageKeyId},file=/dev/stdin`];
    return await work({ args, options: { stdinFile } });
  } finally {
    await stdinFile.close();
  }
}

/**
 * Runs `create`, which makes an encrypted image. QEMU measures first what the host can do, and fails now
 * and then where time of the processor is counted in ticks: then it is run again.
 */
export async function runMeasured(create: () => Promise<ToolResult>): Promise<ToolResult> {
  for (let tries = 1; ; tries += 1) {
    const result = await create();
    const isUnmeasured = result.exitCode !== 0 && /accurate CPU usage/.test(result.stderr);
    if (!isUnmeasured || tries === MEASURE_TRIES_MAX) return result;
  }
}

/** Whether QEMU says that a passphrase opens none of an image's key slots. */
export function isKeyRefusal(stderr: string): boolean {
  return /Invalid password|cannot unlock any keyslot/i.test(stderr);
}

/** The error of an image that its passphrase does not open. */
export function keyRefused(path: string): KluisError {
  return new KluisError(
    "DiskKeyUnusable",
    `Cannot open encrypted image "${path}": the value of its secret opens none of its key slots`,
    { details: { path } },
  );
}
