/** Writes layers that nobody has open into one below them. */
import { present } from "#base/assert.ts";
import { type ImageKeyInput, withImageKey } from "#drivers/disk/image-key.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import type { DiskLayer } from "./disk-layer.ts";
import { toLayerNode } from "./layer-node.ts";

/** What is committed. */
export interface LayersCommit {
  /** The chain of the disk up to the last layer that is committed, oldest first. */
  readonly chain: readonly DiskLayer[];
  /** Number of the layer that is written. */
  readonly into: number;
  /** Where the layers are encrypted. */
  readonly passphrase: Uint8Array | undefined;
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * Commits. At any moment the chain shows the same disk, whoever dies; no other layer is written. The
 * caller syncs. Errors: ToolFailed, the signal's reason.
 */
export async function commitLayers(commit: LayersCommit): Promise<void> {
  const { chain, into } = commit;
  const at = chain.findIndex(({ number }) => number === into);
  const written = present(chain[at], "the layer that is written is in the chain");
  const top = present(chain.at(-1), "a chain has a layer");
  if (written.secretId === undefined) {
    await runCommit(commit, ["-f", top.format, "-b", written.path, "--", top.path]);
    return;
  }
  // A layer that is opened by its key is not found by its path: each is committed into the one that
  // is given below it, the lowest first, so that none is left out.
  const below = chain.slice(0, at + 1);
  for (const layer of chain.slice(at + 1)) {
    await withImageKey(commit.passphrase, (key) =>
      runCommit(commit, ["--", toLayerNode(layer, below)], key),
    );
  }
}

async function runCommit(
  { timeoutMs, signal }: LayersCommit,
  place: readonly string[],
  key: ImageKeyInput = { args: [], options: {} },
): Promise<void> {
  const result = await runTool("qemu-img", ["commit", "-q", "-d", ...key.args, ...place], {
    timeoutMs,
    dieWithParent: true,
    ...key.options,
    ...(signal === undefined ? {} : { signal }),
  });
  assertToolSucceeded("qemu-img", result);
}
