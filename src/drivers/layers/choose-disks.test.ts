/** Goal: a snapshot takes the disks that were asked for, never without the OS disk. Method: cases. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import type { DiskSelection } from "#ports/hypervisor.ts";
import { chooseDisks } from "./choose-disks.ts";

const disks = ["vda", "vdb", "vdc"].map((name) => {
  return { name, path: `/${name}`, format: "raw" } as const;
});
const vm = { name: "web", disks };
const mixed = { ...vm, refused: [{ name: "vdd", reason: "it is of glass" }] };

function refuses(
  description: typeof mixed | typeof vm,
  selection: DiskSelection,
  refusal: { readonly code: ErrorCode; readonly words: RegExp },
): void {
  assert.throws(
    () => chooseDisks(description, selection),
    (error) => isKluisError(error, refusal.code) && refusal.words.test(error.message),
  );
}

test("chooseDisks: all, those of a list, all but some; the OS disk always", () => {
  assert.deepEqual(chooseDisks(vm), ["vda", "vdb", "vdc"]);
  assert.deepEqual(chooseDisks(vm, { include: ["vdc"] }), ["vda", "vdc"]);
  assert.deepEqual(chooseDisks(vm, { exclude: ["vdb"] }), ["vda", "vdc"]);
  assert.deepEqual(chooseDisks(vm, { include: ["vdb", "vdc"], exclude: ["vdc"] }), ["vda", "vdb"]);
  assert.deepEqual(chooseDisks({ ...vm, osDisk: "vdb" }, { include: [] }), ["vdb"]);
  assert.deepEqual(chooseDisks({ name: "none", disks: [] }), []);
});

test("chooseDisks: a disk that cannot have layers may be left out, and stops the others else", () => {
  assert.deepEqual(chooseDisks(mixed, { exclude: ["vdd"] }), ["vda", "vdb", "vdc"]);
  assert.deepEqual(chooseDisks(mixed, { include: ["vdb"] }), ["vda", "vdb"]);
  refuses(mixed, {}, { code: "SnapshotFailed", words: /disk "vdd": it is of glass/ });
  refuses(mixed, { include: ["vdd"] }, { code: "SnapshotFailed", words: /of glass/ });
});

test("chooseDisks: names of no disk and the OS disk are refused", () => {
  refuses(vm, { include: ["vdx"] }, { code: "ArgumentInvalid", words: /vda, vdb, vdc/ });
  refuses(vm, { exclude: ["vdx"] }, { code: "ArgumentInvalid", words: /"vdx"/ });
  refuses(vm, { exclude: ["vda"] }, { code: "ArgumentInvalid", words: /the OS disk/ });
});
