/** Goal: every bad field of a description is named. Method: one good description, one damage each. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { parseVmDescription } from "#drivers/qemu/description.ts";

const good = {
  name: "mail-1",
  memoryMiB: 256,
  cpus: 2,
  kernel: "vmlinux",
  append: "root=/dev/vda",
  disks: [
    { name: "vda", path: "images/a.qcow2", format: "qcow2" },
    { name: "vdb", path: "/srv/b.raw", format: "raw" },
  ],
};

function parse(value: unknown): ReturnType<typeof parseVmDescription> {
  return parseVmDescription(JSON.stringify(value), "/etc/kluis/mail-1.json");
}

test("description: resolves paths against its own folder", () => {
  const vm = parse(good);
  assert.equal(vm.kernel, "/etc/kluis/vmlinux");
  assert.deepEqual(
    vm.disks.map((disk) => disk.path),
    ["/etc/kluis/images/a.qcow2", "/srv/b.raw"],
  );
  assert.equal(vm.ackChannel, false);
  assert.deepEqual(vm.extraArguments, []);
});

const damages: readonly (readonly [field: string, value: unknown])[] = [
  ["name", { ...good, name: "../x" }],
  ["name", { ...good, name: 4 }],
  ["memoryMiB", { ...good, memoryMiB: 1 }],
  ["memoryMiB", { ...good, memoryMiB: "256" }],
  ["cpus", { ...good, cpus: 1.5 }],
  ["kernel", { ...good, kernel: "" }],
  ["initrd", { ...good, kernel: undefined, append: undefined, initrd: "x" }],
  ["append", { ...good, kernel: undefined }],
  ["disks", { ...good, disks: [] }],
  ["disks", { ...good, disks: Array.from({ length: 17 }, () => good.disks[0]) }],
  ["disks[0]", { ...good, disks: ["a"] }],
  ["disks[0].name", { ...good, disks: [{ ...good.disks[0], name: "VDA" }] }],
  ["disks[0].format", { ...good, disks: [{ ...good.disks[0], format: "vmdk" }] }],
  ["disks[0].cache", { ...good, disks: [{ ...good.disks[0], cache: "unsafe" }] }],
  ["disks[1].name", { ...good, disks: [good.disks[0], { ...good.disks[1], name: "vda" }] }],
  ["disks[1].path", { ...good, disks: [good.disks[0], { ...good.disks[0], name: "vdb" }] }],
  ["ackChannel", { ...good, ackChannel: 1 }],
  ["extraArguments", { ...good, extraArguments: "-snapshot" }],
  ["extraArguments[0]", { ...good, extraArguments: ["-snapshot"] }],
  ["extraArguments[1]", { ...good, extraArguments: ["-no-hpet", "--drive"] }],
  ["memory", { ...good, memory: 256 }],
];

for (const [field, value] of damages) {
  test(`description: names ${field} when it is wrong (${JSON.stringify(value).length} bytes)`, () => {
    assert.throws(
      () => parse(value),
      (error) => isKluisError(error, "ConfigInvalid") && error.details["field"] === field,
    );
  });
}

test("description: refuses what is not JSON, not an object or too long", () => {
  for (const text of ["{", "[]", "null", `"${"x".repeat(300_000)}"`]) {
    assert.throws(
      () => parseVmDescription(text, "/d.json"),
      (error) => isKluisError(error, "ConfigInvalid"),
    );
  }
});
