// Goal: QEMU opens exactly the layers that were looked at; anything unusual is left to it.
import assert from "node:assert/strict";
import { test } from "node:test";

import type { ImageInfo, ImageLayer } from "./image-info.ts";
import { toImageNode } from "./image-node.ts";

function toInfo(layers: readonly ImageLayer[]): ImageInfo {
  return { path: "/top", format: "qcow2", sizeBytes: 512, isBlockDevice: false, layers };
}

const top: ImageLayer = {
  sizeBytes: 1024,
  file: '/a "top",x=1',
  format: "qcow2",
  protocol: "file",
  clusterBytes: 131_072,
};
const middle: ImageLayer = { ...top, file: "/middle", clusterBytes: 65_536 };
const base: ImageLayer = {
  file: "/dev/base",
  format: "raw",
  sizeBytes: 1024,
  protocol: "host_device",
};

function parse(node: string | undefined): unknown {
  assert.ok(node?.startsWith("json:") === true);
  return JSON.parse(node.slice(5));
}

test("image node: names every layer with its format and index pieces", () => {
  const info = toInfo([top, middle, base]);
  assert.deepEqual(parse(toImageNode(info, { withBacking: true })), {
    driver: "qcow2",
    "l2-cache-entry-size": 131_072,
    file: { driver: "file", filename: '/a "top",x=1' },
    backing: {
      driver: "qcow2",
      "l2-cache-entry-size": 65_536,
      file: { driver: "file", filename: "/middle" },
      backing: { driver: "raw", file: { driver: "host_device", filename: "/dev/base" } },
    },
  });
});

test("image node: alone, an overlay has nothing below it", () => {
  assert.deepEqual(parse(toImageNode(toInfo([top, base]), { withBacking: false })), {
    driver: "qcow2",
    "l2-cache-entry-size": 131_072,
    file: { driver: "file", filename: '/a "top",x=1' },
    backing: null,
  });
});

test("image node: other formats and places are left to QEMU", () => {
  for (const odd of [
    { ...base, format: "vmdk" },
    { file: "nbd://host/x", format: "raw", sizeBytes: 1024 },
    { file: "/fifo", format: "raw", sizeBytes: 1024 },
  ] satisfies ImageLayer[]) {
    assert.equal(toImageNode(toInfo([top, odd]), { withBacking: true }), undefined);
  }
  const many = Array.from({ length: 201 }, () => top);
  assert.equal(toImageNode(toInfo(many), { withBacking: true }), undefined);
});

test("image node: encrypted layers are opened by the passphrase at hand, else left to QEMU", () => {
  const sealed: ImageLayer = { ...top, isEncrypted: true };
  const luks: ImageLayer = { ...base, file: "/base", protocol: "file", format: "luks" };
  const info = toInfo([sealed, luks]);
  assert.deepEqual(parse(toImageNode(info, { withBacking: true, isKeyed: true })), {
    driver: "qcow2",
    encrypt: { format: "luks", "key-secret": "kluis-key" },
    "l2-cache-entry-size": 131_072,
    file: { driver: "file", filename: '/a "top",x=1' },
    backing: {
      driver: "luks",
      "key-secret": "kluis-key",
      file: { driver: "file", filename: "/base" },
    },
  });
  for (const layers of [[sealed], [luks], [top, luks]]) {
    assert.equal(toImageNode(toInfo(layers), { withBacking: true }), undefined);
  }
});
