// Goal: a chunk keeps its content wherever it is moved, chunks never overlap, and holes are closed.
// Method: random allocations, changes of size and releases, with a copy of every chunk beside.
import assert from "node:assert/strict";
import { test } from "node:test";

import { AssertionError } from "#base/assert.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { PartitionMemory, slabBytes } from "./partition-memory.ts";

const sizes = [512, 992, 14_912, 65_536, slabBytes];

test("partition memory: keeps every chunk's content when others come, grow and go", () => {
  const random = createSeededRandom("partition memory");
  const memory = new PartitionMemory();
  const copies = new Map<number, Uint8Array>();
  let created = 0;
  let bytes = 0;
  let peakBytes = 0;
  for (let step = 0; step < 4000; step++) {
    const action = random.integer(0, 9);
    const chosen = copies.size === 0 ? undefined : random.pick([...copies.keys()]);
    const size = random.pick(random.chance(0.98) ? sizes.slice(0, 4) : sizes);
    if (chosen === undefined || action < 3) {
      memory.allocate(created, size);
      copies.set(created, fill(memory.chunk(created)));
      created++;
      bytes += size;
    } else if (action < 7) {
      const old = copies.get(chosen) ?? new Uint8Array(0);
      if (size === old.length) continue;
      memory.resize(chosen, size);
      const kept = memory.chunk(chosen).subarray(0, old.length);
      assert.deepEqual(kept, old.subarray(0, size), "content moved along");
      copies.set(chosen, fill(memory.chunk(chosen)));
      bytes += size - old.length;
    } else {
      memory.release(chosen);
      bytes -= copies.get(chosen)?.length ?? 0;
      copies.delete(chosen);
    }
    peakBytes = Math.max(peakBytes, bytes);
    if (step % 50 === 0) check();
  }
  check();

  function fill(chunk: Uint8Array): Uint8Array {
    assert.equal(chunk.byteOffset % 32, 0);
    chunk.set(random.bytes(chunk.length));
    return chunk.slice();
  }

  function check(): void {
    for (const [partition, copy] of copies) {
      assert.ok(Buffer.from(copy).equals(memory.chunk(partition)), `chunk ${partition}`);
    }
    const slack = (sizes.length + 1) * slabBytes + 65_536;
    assert.ok(memory.memoryBytes <= peakBytes * 1.1 + slack, "holes are closed");
  }
});

test("partition memory: refuses chunks that are out of form", () => {
  const memory = new PartitionMemory();
  for (const size of [0, -32, 33, slabBytes + 32]) {
    assert.throws(() => memory.allocate(0, size), AssertionError);
  }
});
