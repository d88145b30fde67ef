/** Checks the order of puts in a recorded log: docs/design/vault-format.md §8. */
import assert from "node:assert/strict";

import { toHex } from "#base/bytes.ts";
import { fromIndexColumns, parseIndexSegment, parsePackFooter } from "#formats/index-segment.ts";
import { parseLeaf } from "#formats/map-node.ts";
import { mapPackName, packName, parseStoreName } from "#formats/store-names.ts";
import type { RecordedChange, RecordedEvent } from "#testing/recording-store.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";

/** How many puts of each kind were checked. */
export interface CheckedOrder {
  packs: number;
  mapPacks: number;
  segments: number;
  manifests: number;
  /** Most puts that were under way at once. */
  mostInFlight: number;
}

/**
 * Asserts for a log of one writer that every put began only when all that it builds on had
 * returned: packs before the index segment that names them, blocks and their segment before the map
 * pack whose leaves name them, everything before the manifest; and that nothing is overwritten.
 */
export function assertWriteOrder(events: readonly RecordedEvent[], keys: VaultKeys): CheckedOrder {
  const checked = { packs: 0, mapPacks: 0, segments: 0, manifests: 0, mostInFlight: 0 };
  const inFlight = new Set<RecordedChange>();
  const durable = new Set<string>();
  const began = new Set<string>();
  /** Ids of blocks and nodes that durable segments name in durable packs. */
  const found = new Set<string>();
  for (const { moment, change } of events) {
    const { name, kind } = change;
    if (name.startsWith("leases/")) continue;
    assert.equal(kind, "put", "a writer removes nothing");
    if (moment !== "began") {
      assert.equal(moment, "returned");
      inFlight.delete(change);
      durable.add(name);
      if (name.startsWith("index/")) noteSegment(change, keys, found);
      continue;
    }
    assert.ok(!began.has(name), `"${name}" is put once`);
    began.add(name);
    const parsed = parseStoreName(name);
    if (parsed?.kind === "pack") checked.packs++;
    if (parsed?.kind === "index-segment") {
      checked.segments++;
      for (const pack of packNamesOf(change, keys)) {
        assert.ok(durable.has(pack), `segment "${name}" names "${pack}", which is durable`);
      }
    }
    if (parsed?.kind === "map-pack") {
      checked.mapPacks++;
      for (const block of blocksOf(change, parsed.sha256, keys)) {
        assert.ok(found.has(block), `map pack "${name}" names block ${block}, which can be found`);
      }
    }
    if (parsed?.kind === "manifest") {
      checked.manifests++;
      assert.equal(inFlight.size, 0, "the manifest comes last");
    }
    inFlight.add(change);
    checked.mostInFlight = Math.max(checked.mostInFlight, inFlight.size);
  }
  return checked;
}

function noteSegment(change: RecordedChange, keys: VaultKeys, found: Set<string>): void {
  for (const columns of segmentOf(change, keys)) {
    for (const { id } of fromIndexColumns(columns).entries) found.add(toHex(id));
  }
}

function packNamesOf(change: RecordedChange, keys: VaultKeys): readonly string[] {
  return segmentOf(change, keys).map((pack) =>
    pack.type === "pack" ? packName(pack.name) : mapPackName(pack.name),
  );
}

function segmentOf(change: RecordedChange, keys: VaultKeys): ReturnType<typeof parseIndexSegment> {
  const object = { name: change.name, bytes: contentOf(change), type: "indexSegment" } as const;
  return parseIndexSegment(openContainer(keys, object).content);
}

/** Ids of all blocks that the leaves in a map pack name. */
function blocksOf(change: RecordedChange, sha256: Uint8Array, keys: VaultKeys): Set<string> {
  const object = { name: change.name, bytes: contentOf(change), type: "mapPack" } as const;
  const { content, footer } = openContainer(keys, object);
  const pack = fromIndexColumns(parsePackFooter(footer, sha256));
  const starts: number[] = [];
  let end = 0;
  for (const { plainBytes } of pack.frames) {
    starts.push(end);
    end += plainBytes;
  }
  const blocks = new Set<string>();
  for (const { frame, offsetBytes, lengthBytes } of pack.entries) {
    const start = (starts[frame] ?? 0) + offsetBytes;
    const node = content.subarray(start, start + lengthBytes);
    if (node[0] !== 1) continue;
    for (const window of parseLeaf(node).windows) {
      for (const { block } of window?.pieces ?? []) if (block) blocks.add(toHex(block));
    }
  }
  return blocks;
}

function contentOf(change: RecordedChange): Uint8Array {
  assert.ok(change.content);
  return change.content;
}
