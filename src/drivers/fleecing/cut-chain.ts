/** Shortens chains of bitmaps in QEMU. */
import type { ChainCut } from "./bitmap-chain.ts";
import { transact } from "./fleece-graph.ts";
import { isRefusal, type Monitor } from "./monitor.ts";

/**
 * Cuts the chain of a disk's node, each cut whole or not at all. Ends with what QEMU refuses, because
 * somebody uses the bitmap: what stays says nothing wrong, and the next run tries again. Errors: QmpFailed.
 */
export async function cutChain(
  monitor: Monitor,
  node: string,
  cuts: readonly ChainCut[],
): Promise<void> {
  for (const { name, into } of cuts) {
    const data = { node, target: into, bitmaps: [name] };
    const merge = into === undefined ? [] : [{ type: "block-dirty-bitmap-merge", data }];
    const remove = { type: "block-dirty-bitmap-remove", data: { node, name } };
    try {
      await transact(monitor, [...merge, remove]);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return;
    }
  }
}
