// Goal: an image is known by its file, however QEMU names it. Method: names as QEMU 7.2 gives them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { toFilePath } from "./image-file-name.ts";

test("image file name: is the file of a path, and of JSON however deep", () => {
  assert.equal(toFilePath("/images/a b"), "/images/a b");
  const file = { driver: "file", filename: "/images/a" };
  const luks = { driver: "luks", "key-secret": "s", file };
  const qcow2 = { driver: "qcow2", "encrypt.key-secret": "s", file, backing: luks };
  for (const node of [luks, qcow2, { driver: "raw", file: luks }]) {
    assert.equal(toFilePath(`json:${JSON.stringify(node)}`), "/images/a");
  }
  const odd = 'json:{"driver":"nbd"}';
  assert.equal(toFilePath(odd), odd);
});
