// Goal: what lies behind a network, or is not known, is never taken for this host's own.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createTempFolder } from "#testing/temp-folder.ts";
import { isLocalType, isOnLocalFileSystem } from "./local-file-system.ts";

test("local file system: knows its own, signed or not, and nothing else", async () => {
  for (const type of [0xef53, 0x5846_5342, 0x9123_683e, 0x9123_683e | 0]) {
    assert.ok(isLocalType(type), type.toString(16));
  }
  // NFS, SMB 1 and 2, FUSE, Ceph, GFS2, OCFS2, Lustre, 9p, and one that nobody has.
  const others = [
    0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x00c3_6400, 0x0116_1970, 0x7461_636f,
    0x0bd0_0bd0, 0x0102_1997, 0x1234_5678,
  ];
  for (const type of others) assert.equal(isLocalType(type), false, type.toString(16));
  await using folder = await createTempFolder();
  assert.ok(await isOnLocalFileSystem(folder.path));
  assert.equal(await isOnLocalFileSystem("/proc/self/status"), false);
});
