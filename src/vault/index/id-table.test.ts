// Goal: the table gives every number that was entered for an id, whatever the order, the spread of
// the ids and the size of the numbers, and stays within its memory.
// Method: random tables beside a Map; ids that share long prefixes; numbers that force splits;
// snapshots that are whole, cut or changed; a table of a million ids measured.
import assert from "node:assert/strict";
import { test } from "node:test";

import { AssertionError } from "#base/assert.ts";
import { concatBytes, toHex } from "#base/bytes.ts";
import { idBytes } from "#formats/geometry.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { syntheticIds, syntheticKey } from "#testing/synthetic-index.ts";
import { IdTable } from "./id-table.ts";

/** All numbers that the table gives for an id. */
function numbersOf(table: IdTable, ids: Uint8Array, at = 0): number[] {
  const numbers: number[] = [];
  for (let number = table.first(ids, at); number >= 0; number = table.next()) numbers.push(number);
  return numbers;
}

/** What a table may know of an id: its first 36 bits. */
function hashOf(id: Uint8Array): string {
  return toHex(id).slice(0, 9);
}

/** Ids whose first bits come from a small set, so that buckets and partitions fill unevenly. */
function createId(random: SeededRandom, prefixes: number): Uint8Array {
  const id = random.bytes(idBytes);
  if (prefixes === 0) return id;
  id.fill(random.integer(0, prefixes - 1), 0, random.integer(1, 4));
  if (random.chance(0.3)) id.fill(0xff, 4, 5);
  return id;
}

for (const [label, prefixes, step] of [
  ["even", 0, 1],
  ["uneven", 3, 1],
  ["few", 1, 1],
  ["wide numbers", 0, 100_003],
] as const) {
  test(`id table: gives every number back when ids are ${label}`, () => {
    const random = createSeededRandom(`id table ${label}`);
    const table = new IdTable();
    const model = new Map<string, Set<number>>();
    const ids: Uint8Array[] = [];
    for (let count = 0; count < 20_000; count++) {
      const id = random.chance(0.1) && count > 0 ? random.pick(ids) : createId(random, prefixes);
      const number = count * step;
      assert.ok(table.insert(id, 0, number, false) || table.insert(id, 0, number, true));
      ids.push(id);
      model.set(hashOf(id), (model.get(hashOf(id)) ?? new Set()).add(number));
    }
    assert.equal(table.count, 20_000);
    for (const id of ids) {
      assert.deepEqual(new Set(numbersOf(table, id)), model.get(hashOf(id)));
    }
    for (let count = 0; count < 5000; count++) {
      const id = createId(random, prefixes);
      assert.deepEqual(new Set(numbersOf(table, id)), model.get(hashOf(id)) ?? new Set());
    }
  });
}

test("id table: asks before it takes an id for the 1,025th time", () => {
  const random = createSeededRandom("id table crowded");
  const table = new IdTable();
  const id = random.bytes(idBytes);
  for (let number = 0; number < 1024; number++) assert.ok(table.insert(id, 0, number, false));
  assert.equal(table.insert(id, 0, 1024, false), false);
  assert.equal(table.count, 1024);
  for (let number = 1024; number < 8000; number++) assert.ok(table.insert(id, 0, number, true));
  assert.equal(numbersOf(table, id).length, 8000);
  for (let number = 8000; number < 60_000; number++) {
    assert.ok(table.insert(random.bytes(idBytes), 0, number, false));
  }
  assert.equal(numbersOf(table, id).length, 8000);
});

test("id table: takes numbers up to 31 bits and no more", () => {
  const random = createSeededRandom("id table numbers");
  const table = new IdTable();
  const ids = random.bytes(idBytes * 3);
  const numbers = [2 ** 31 - 1, 2 ** 31 - 2, 0];
  for (const [at, number] of numbers.entries()) table.insert(ids, at * idBytes, number, false);
  for (const [at, number] of numbers.entries()) {
    assert.deepEqual(numbersOf(table, ids, at * idBytes), [number]);
  }
  assert.throws(() => table.insert(ids, 0, 2 ** 31, false), AssertionError);
  assert.throws(() => table.first(ids, idBytes * 2 + 1), AssertionError);
});

test("id table: is the same when its snapshot is restored, and refuses any other", () => {
  const random = createSeededRandom("id table snapshot");
  const table = new IdTable();
  const count = 30_000;
  const ids = random.bytes(idBytes * count);
  for (let number = 0; number < count; number++) table.insert(ids, number * idBytes, number, false);
  const parts = [...table.snapshot()].map((part) => ({
    ...part,
    content: concatBytes(part.parts),
  }));
  const restore = (change: (at: number) => Partial<{ depth: number; count: number }>) => {
    let next = 0;
    return IdTable.restore(table.partitionCount, () => {
      const at = next++;
      const part = parts[at % parts.length];
      assert.ok(part !== undefined);
      let done = 0;
      const read = (target: Uint8Array): void => {
        target.set(part.content.subarray(done, done + target.length));
        done += target.length;
      };
      return { depth: part.depth, count: part.count, read, ...change(at) };
    });
  };
  const again = restore(() => ({}));
  assert.ok(again !== undefined && again.count === count);
  for (let number = 0; number < count; number++) {
    assert.deepEqual(numbersOf(again, ids, number * idBytes), [number]);
    again.insert(ids, number * idBytes, count + number, false);
    assert.deepEqual(numbersOf(again, ids, number * idBytes), [number, count + number]);
  }
  const at = random.integer(0, parts.length - 1);
  assert.equal(
    restore((part) => (part === at ? { depth: 20 } : {})),
    undefined,
  );
  assert.equal(
    restore((part) => (part === at ? { depth: 0 } : {})),
    undefined,
  );
  assert.equal(
    restore((part) => (part === at ? { count: 3 } : {})),
    undefined,
  );
  assert.equal(
    restore((part) => (part === at ? { count: 70_000 } : {})),
    undefined,
  );
});

test("id table: takes less than 6 bytes an entry beside 8 MiB at any size", () => {
  const key = syntheticKey("id table memory");
  const table = new IdTable();
  for (let first = 0; first < 1_000_000; first += 1000) {
    const ids = syntheticIds(key, first, 1000);
    for (let at = 0; at < 1000; at++) table.insert(ids, at * idBytes, first + at, false);
    const allowed = 8 * 1024 * 1024 + 6 * table.count;
    assert.ok(
      table.memoryBytes <= allowed,
      `${table.memoryBytes} bytes for ${table.count} entries`,
    );
  }
});
